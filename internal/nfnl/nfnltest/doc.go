// Package nfnltest has a kernel for tests that keeps nf_tables in memory, and runs the rules.
//
// # What it does
//
// [Kernel] is the nf_tables of one network namespace; [Kernel.Open] connects to it with the methods of nfnl.Conn. It reads the very bytes that a transaction sends to the real
// kernel, so a wrong length or a missing attribute is refused here too. [Kernel.Walk] sends the first packet of a connection through the rules as they were written: it executes their
// expressions (payload, meta, ct, fib, immediate, bitwise, cmp, lookup, numgen, dynset, nat, masq, reject) and visits every value that numgen could return.
//
// # What it is true to
//
// The contract in this package runs on the fake and on the real kernel, and both have to give the same errors and dumps. What the fake does not know is EOPNOTSUPP, never a
// silent success.
//
// # What it lacks
//
// Intervals, timeouts that pass, objects, flowtables, other families than ip and ip6, and what is only checked at commit (loops of chains).
//
// # Concurrency
//
// Everything here may be used by several goroutines at once. Fault is not to be changed meanwhile.
package nfnltest
