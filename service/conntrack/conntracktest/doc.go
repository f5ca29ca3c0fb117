// Package conntracktest has a kernel for tests of conntrack and of programs that use it, and the contract that keeps it like the real one.
//
// A [Kernel] holds flows in memory: [Kernel.Track] records them as packets would, [Kernel.Dump] prints them as conntrack(8) does, [Kernel.Fault] makes calls fail. A flow is deleted by
// its addresses, ports and id, as the real kernel does it.
//
// What it owns: memory; it never touches the machine and needs no privileges. What it does not know: zones, timeouts, and translation: a flow is what Track was given.
//
// A Kernel may be used by several goroutines. [Contract] runs on it and, in conntrack's own tests, on a fresh network namespace of the running Linux.
package conntracktest
