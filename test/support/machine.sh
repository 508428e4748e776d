#!/bin/sh
# A machine with systemd as its first process, over a copy-on-write view of this one: in namespaces of its own, gone when it ends.
# Root; started by machine.ts under `unshare`. $1: a directory to mount on. $2: the project, which it sees as /opt/mcr.
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p opt/mcr
mount --bind "$2" opt/mcr
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs tmpfs sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
# Nothing of the machine around it starts: only what the test asks for.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires
ln -sf /usr/lib/systemd/system/basic.target etc/systemd/system/default.target
for unit in systemd-udevd systemd-udev-trigger systemd-resolved systemd-networkd systemd-timesyncd systemd-sysctl systemd-modules-load \
  systemd-logind systemd-binfmt systemd-random-seed systemd-remount-fs systemd-journal-flush systemd-tmpfiles-setup-dev networking dbus; do
  ln -sf /dev/null "etc/systemd/system/$unit.service"
done
: >etc/fstab
mkdir .old
pivot_root . .old
cd /
export container=unshare
# A user namespace (PrivateUsers=) is refused inside a chroot; after pivot_root this is none.
exec chroot / /bin/sh -c 'umount -l /.old; exec /lib/systemd/systemd --log-target=journal'
