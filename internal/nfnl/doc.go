// Package nfnl speaks nftables over netlink: transactions of any size in one system call, dumps, and who changed what. It starts no process and needs no nft binary.
//
// # What it does
//
// A [Transaction] collects changes as finished bytes; [Conn.Commit] sends them, and the kernel does all of them or none. Rules are written with the expressions of
// github.com/google/nftables/expr; elements, of which there may be millions, have an encoder of their own that packs many into a message and allocates nothing.
// The kernel names the change that it refuses, and a [Refused] the [Transaction.Tag] under which it was made. [Conn.Watch] tells of changes by others, and only of those.
//
// # What it owns
//
// Nothing. Tables belong to those who name them.
//
// # Order inside a transaction
//
// The kernel does the changes in four steps, whatever the order of calls: tables, chains, rules and sets (in the order of calls), then elements that go, then elements that come, then
// chains and sets that go. So an element can be replaced by deleting and adding it, and a chain can go together with the elements that lead to it (Linux 6.2; before, the
// kernel says EBUSY, and the chain has to wait for the next transaction).
//
// # Facts, measured on Linux 6.18 with these calls
//
//   - An element that exists with the same data is added without an error; with other data it is EEXIST. A missing one cannot be deleted: ENOENT.
//   - A verdict map's element makes the kernel validate the whole table at commit, and that walks through all elements of all verdict maps. So large maps should hold data.
//   - A dump of a set starts at its beginning for each 32 KiB: 10,000 elements take 8 ms, 100,000 take 1.0 s, 200,000 take 4.9 s; in a map with a Size (a table of
//     fixed length) about a third of that. A dump while the kernel's table still grows, some ms after many additions, misses elements and does not say so.
//   - Adding takes 1.3 to 2.5 µs per element, in a map with a Size 0.6 to 1.2 µs. More elements than the Size are ENFILE.
//   - While anybody listens to NFNLGRP_NFTABLES, the kernel builds a message for each element of everybody's transactions.
//
// # Failure
//
// A refused transaction changes nothing. A dump that was interrupted by a commit is repeated. Notifications that were lost are an [Event] that names no table.
//
// # Privileges and versions
//
// CAP_NET_ADMIN in the network namespace. Transactions above the limit net.core.wmem_max need it in the initial user namespace too (SO_SNDBUFFORCE); without, they fail with EMSGSIZE.
// Linux 5.9. On other systems the package is empty.
//
// # Concurrency
//
// A [Conn] may be used by several goroutines at once, a [Transaction] by one.
package nfnl
