#!/bin/sh
# Fetch Tux Paint's stamps: pictures, many of them photographs, with captions in many languages.
#
#     recipes/photos/fetch.sh [RAW_FOLDER [PACKAGE.deb]]
#
# RAW_FOLDER is runs/photos/raw unless given. The Debian package tuxpaint-stamps-default (161 MB,
# GPL-2: used here, not shipped) is fetched with `apt-get download` (no root needed); elsewhere,
# download the .deb yourself and name it as the second argument. Nothing is installed.
#
# Left in RAW_FOLDER:
#   stamps/         the package's pictures
#   captions.jsonl  {"image", "captions": {language: caption}}, one line a PNG picture with a caption
#   train.jsonl     13 of 16 of its lines, test.jsonl the rest, chosen by the pictures' bytes:
#                   copies of a picture are on the same side, and the choice never changes
set -eu

raw=${1:-runs/photos/raw}
package=${2:-}
name=tuxpaint-stamps-default

fail() {
    echo "fetch.sh: $1" >&2
    exit 1
}

if [ -f "$raw/test.jsonl" ]; then
    echo "fetch.sh: $raw is complete" >&2
    exit 0
fi
mkdir -p "$raw"
raw=$(cd "$raw" && pwd)
work="$raw/.unpacking"
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT

# 1. The package.
if [ -z "$package" ]; then
    command -v apt-get >/dev/null || fail "no apt-get here (not Debian or Ubuntu?); download the
package from https://packages.debian.org/stable/$name and run
    recipes/photos/fetch.sh $raw PATH/TO/THE.deb"
    (cd "$work" && apt-get download "$name" >&2) ||
        fail "apt-get download $name failed; try 'apt-get update' first (as root)"
    package=$(ls "$work"/*.deb)
fi
[ -f "$package" ] || fail "no file $package"

# 2. Its files. A .deb is an ar archive; bsdtar reads it where dpkg-deb is missing.
mkdir "$work/files"
if command -v dpkg-deb >/dev/null; then
    dpkg-deb -x "$package" "$work/files"
elif command -v bsdtar >/dev/null; then
    bsdtar -xOf "$package" 'data.tar*' | bsdtar -xf - -C "$work/files"
else
    fail "neither dpkg-deb nor bsdtar is here to unpack $package"
fi
stamps="$work/files/usr/share/tuxpaint/stamps"
[ -d "$stamps" ] || fail "$package holds no usr/share/tuxpaint/stamps"
rm -rf "$raw/stamps"
mv "$stamps" "$raw/stamps"

# 3. Captions. A stamp's .txt has the English caption in its first line, then LANGUAGE.utf8=CAPTION.
caption='
function quoted(text) {
    gsub(/[[:cntrl:]]/, " ", text)
    gsub(/^ +| +$/, "", text)
    gsub(/\\/, "\\\\", text)
    gsub(/"/, "\\\"", text)
    return "\"" text "\""
}
function add(language, text) {
    if (quoted(text) != "\"\"")
        captions = captions (captions == "" ? "" : ", ") quoted(language) ": " quoted(text)
}
FNR == 1 { add("en", $0); next }
match($0, /^[A-Za-z_@]+\.utf8=/) {
    add(substr($0, 1, RLENGTH - 6), substr($0, RLENGTH + 1))
}
END { printf "{\"image\": %s, \"captions\": {%s}}\n", quoted(image), captions }
'
cd "$raw"
found=0
without_png=0
: >"$work/captions.jsonl"
: >"$work/train.jsonl"
: >"$work/test.jsonl"
for text in $(find stamps -name '*.txt' | LC_ALL=C sort); do
    picture="${text%.txt}.png"
    if [ ! -f "$picture" ]; then
        without_png=$((without_png + 1))
        continue
    fi
    found=$((found + 1))
    line=$(LC_ALL=C awk -v image="$picture" "$caption" "$text")
    printf "%s\n" "$line" >>"$work/captions.jsonl"
    # The hash's first digit, of sixteen.
    case $(sha256sum <"$picture") in
    [0-2]*) printf "%s\n" "$line" >>"$work/test.jsonl" ;;
    *) printf "%s\n" "$line" >>"$work/train.jsonl" ;;
    esac
done
mv "$work/captions.jsonl" "$work/train.jsonl" .
# Last, because its presence says that all is there.
mv "$work/test.jsonl" .
echo "fetch.sh: $found captioned pictures in $raw: $(wc -l <train.jsonl) train," \
    "$(wc -l <test.jsonl) test; $without_png captions without a PNG (SVG only) left out" >&2
