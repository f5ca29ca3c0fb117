// Package iptablestest has a kernel for tests of service/iptables and of programs that use it, and the contract that keeps it like the real one.
//
// A [Kernel] holds the rules of the tables nat and filter in memory. It reads what iptables-restore reads, refuses what that refuses (chains that are not there, names that are too
// long, chains that are still in use, options that it does not know), and prints what iptables-save prints. [Kernel.Lookup] sends a packet through the rules that were
// written, [Kernel.Fault] makes calls fail, [Kernel.Lack] takes a feature away, and [Kernel.Flush] and [Kernel.Edit] do what careless neighbours do.
//
// What it owns: memory; it never touches the machine and needs no privileges. What it does not know: tables other than nat and filter, conntrack (a Lookup is about the first packet of a
// connection), and what matches and targets do that service/iptables does not use: those it refuses.
//
// A Kernel may be used by several goroutines. [Contract] runs on it and, in the tests of service/iptables, on fresh network namespaces with both variants of iptables.
package iptablestest
