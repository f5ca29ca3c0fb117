// Package masqtest has a kernel for tests of masq and of programs that use it, and the contract that keeps it like the real one.
//
// A [Kernel] holds chains in memory, with the refusals of nft and iptables that matter here: ranges of the other family, comments that are
// too long for nft, verdicts that do not exist. [Kernel.Dump] prints what it holds in the syntax of nft and iptables-save, [Kernel.Lookup]
// sends a packet through it, [Kernel.Fault] makes calls fail, and [Kernel.Flush], [Kernel.Edit] and [Kernel.Hook] do what careless neighbours do.
//
// What it owns: memory; it never touches the machine and needs no privileges. What it does not know: conntrack (a Lookup is about the first packet of a
// connection), other programs' tables, and the iptables lock. Chains that cannot exist are refused with an error that matches [errors.ErrUnsupported].
//
// A Kernel may be used by several goroutines. [Contract] runs on it and, in masq's own tests, on a fresh network namespace of the running Linux.
package masqtest
