# Makes what the cases work on, in /srv/start of a container; every time in it is fixed.
# Where a program is missing (the plain root file system), what it makes is missing too.
set -eu
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org
mkdir -p /srv/start /srv/work && cd /srv/start

mkdir -p tree/sub/deep parts archives served
printf 'one\n' >tree/one.txt; printf 'two\ntwo\n' >tree/sub/two.conf; printf '\000\377binary' >tree/sub/deep/three.bin
printf 'x' >tree/.hidden; ln -s one.txt tree/link; ln -s /no/such tree/dangling; mkfifo tree/fifo
chmod 600 tree/sub/two.conf; chmod 2750 tree/sub/deep; chown app:extra tree/sub/two.conf
printf 'first\n' >parts/01; printf 'second' >parts/02; printf '# third\n' >parts/03.conf
printf 'alpha=1\n# beta=2\ngamma = 3\n\n[section]\ndelta=4\n' >lines.txt
printf 'gr\303\274\303\237e \346\261\211\350\257\255\n' >utf8.txt; printf 'caf\351\n' >latin1.txt; printf 'a\r\nb\r\n' >crlf.txt
: >empty; printf 'no newline' >no-newline
find . -exec touch -h -d 2020-01-01T00:00:00Z {} +

tar --sort=name -czf archives/tree.tar.gz --exclude=fifo tree
tar --sort=name -cf archives/tree.tar --exclude=fifo tree
printf 'not an archive' >archives/broken.tar.gz
python3 - <<'PYTHON'
import zipfile
with zipfile.ZipFile("archives/tree.zip", "w") as file:
    for name in ("top/", "top/a.txt", "top/sub/b.txt"):
        entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        entry.external_attr = (0o40755 if name.endswith("/") else 0o100640) << 16
        file.writestr(entry, "" if name.endswith("/") else name)
record = "gangway_demo-{0}.dist-info/RECORD"
for version in ("1.0", "2.0"):
    with zipfile.ZipFile(f"archives/gangway_demo-{version}-py3-none-any.whl", "w") as file:
        info = f"gangway_demo-{version}.dist-info/"
        for name, content in {
            "gangway_demo.py": f"VERSION = {version!r}\n",
            info + "METADATA": f"Metadata-Version: 2.1\nName: gangway-demo\nVersion: {version}\n",
            info + "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            info + "RECORD": f"gangway_demo.py,,\n{info}METADATA,,\n{info}WHEEL,,\n{info}RECORD,,\n",
        }.items():
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
PYTHON

# Two versions of a package that holds one file, as files and as a repository.
mkdir repository
for version in 1.0 2.0; do
    mkdir -p package/DEBIAN package/opt/demo
    printf 'Package: gangway-demo\nVersion: %s\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: demo\n' $version >package/DEBIAN/control
    printf '%s\n' $version >package/opt/demo/version
    dpkg-deb --root-owner-group -b package repository/gangway-demo_${version}_all.deb >/dev/null
    printf 'Package: gangway-demo\nVersion: %s\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: demo\nFilename: ./gangway-demo_%s_all.deb\nSize: %s\nSHA256: %s\n\n' \
        $version $version "$(stat -c %s repository/gangway-demo_${version}_all.deb)" \
        "$(sha256sum repository/gangway-demo_${version}_all.deb | cut -d' ' -f1)" >>repository/Packages
    rm -r package
done
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; rm -rf /var/lib/apt/lists/*
echo 'deb [trusted=yes] file:/srv/start/repository ./' >/etc/apt/sources.list

if command -v git >/dev/null; then
    git init -q -b main origin
    (cd origin && echo 1 >file && git add file && git commit -qm first && git tag v1 && echo 2 >file && git commit -qam second \
        && git checkout -qb other && echo 3 >more && git add more && git commit -qm third && git checkout -q main)
fi
if command -v svnadmin >/dev/null; then
    svnadmin create subversion
    svn --config-dir /tmp/svn mkdir -q -m trunk file:///srv/start/subversion/trunk
    rm -r /tmp/svn
fi
if command -v gpg >/dev/null; then
    export GNUPGHOME=/tmp/gnupg; mkdir -m 700 $GNUPGHOME
    gpg -q --batch --faked-system-time 20200101T000000 --passphrase '' --quick-gen-key a@example.org rsa2048 sign never 2>/dev/null
    gpg -q --armor --export a@example.org >key.asc
    gpgconf --kill all; rm -rf $GNUPGHOME
fi

printf 'served\n' >served/file.txt; head -c 200000 /dev/zero | tr '\0' z >served/large.txt
cat >/etc/init.d/gangway-demo <<'SERVICE'
#!/bin/sh
### BEGIN INIT INFO
# Provides: gangway-demo
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
# Short-Description: demo
### END INIT INFO
mark=/run/gangway-demo
case "$1" in
    start) touch $mark; echo "started in $(pwd) with umask $(umask)" ;;
    stop) rm -f $mark; echo stopped ;;
    restart|force-reload) rm -f $mark; touch $mark ;;
    reload) ;;
    status) if test -e $mark; then echo gangway-demo is running; else echo gangway-demo is stopped; exit 3; fi ;;
    *) exit 2 ;;
esac
SERVICE
chmod 755 /etc/init.d/gangway-demo
mkdir -p /etc/ansible/facts.d
printf '[general]\nkey=value\n' >/etc/ansible/facts.d/ini.fact
printf '#!/bin/sh\necho "{\\"umask\\": \\"$(umask)\\", \\"home\\": \\"$HOME\\"}"\n' >/etc/ansible/facts.d/script.fact
chmod 755 /etc/ansible/facts.d/script.fact
