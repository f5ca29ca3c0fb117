// Package filestore is a durable [ipam.Store] in one directory, for many processes at once: each CNI ADD is a process of its own, and an
// agent lives beside them.
//
// What it does: the directory holds two files. "leases" is a header page and slots of 256 bytes, one record each, with a checksum. A slot is written in
// place, and one fdatasync makes it durable: that is the whole cost of an acknowledged allocation or release. A slot never lies across
// two sectors, so that a power cut leaves the old record or the new one. The file grows by 64 KiB of zeros at a time; a full disk shows there, as
// an error that harms nothing, while a release rewrites a slot that is already there. A process that lives for one ADD reads the
// file once, front to back. "lock" is held with flock during each Update, and tells the processes of one boot the version and whether somebody writes. It is
// never synced, for it means nothing after a crash. A process that lives on keeps what it has read for as long as the version says that nobody else wrote.
//
// The place where round robin goes on is not stored: it is the record with the highest Seq. Neither are slots cleared when the machine
// boots: each slot names the boot that wrote it (/proc/sys/kernel/random/boot_id), and slots of another boot are empty, for
// their pods died with it. So a reboot needs no space and cannot be half done; the header's boot id only says whether somebody has been here since.
//
// What it owns: the files leases, leases.new, leases.quarantine and lock in its directory (0700, files 0600), recognised by name, and the leases file by
// its magic. Use one directory per network.
//
// What it never touches: any other file. It follows no symbolic link in the place of the directory or of a file, and refuses a directory or a file
// that others may write.
//
// How failure behaves. A process that dies between write and sync leaves a lease that nobody was told of: DEL frees it, the owner's next ADD gets it; the
// next process finds the mark in the lock file and makes all of it durable in a new inode before it trusts it. When a write or a
// sync fails, the Update fails; the records as they were before go to a new inode, for after a failed sync the kernel may call pages clean that
// never reached the disk; until that works, every Update fails. On a full disk the next sync of the old inode has to do, if no failed one is known. Records that
// cannot be read are out of use until the next boot, and counted in [Stats]; the others stay usable. A file without a header is kept as leases.quarantine, and its readable
// records are taken over. A deleted or replaced lock file, data file or directory is noticed by its inode. A file of a newer schema
// is a [*SchemaError], unless its header says that readers of this schema may use it. Waiting for the lock ends after 30 s with a [*LockTimeoutError].
// Several records of one Update (GC) are not one atom.
//
// Privileges and kernel version: write access to the directory, owned by the caller or root. Linux 2.6.36 or any later one; elsewhere Open returns
// errors.ErrUnsupported. The file system must be local and have flock, fdatasync and rename: ext4, xfs, btrfs (where a release may need space, because it writes no block
// in place) and tmpfs.
//
// Concurrency: a Store may be used by several goroutines, a directory by several Stores and processes.
package filestore
