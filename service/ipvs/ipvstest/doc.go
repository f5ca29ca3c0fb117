// Package ipvstest has a kernel for tests that keeps IPVS in memory: virtual and real servers with the kernel's errors, together with the fakes of nftables (nfnltest) and of
// routes and addresses (rtnltest) as one [Node]. A packet can be walked through all of them with [Node.Lookup]. [Dump] prints the servers as ipvsadm does.
//
// The contract of this package runs on the fake and on real kernels that have IPVS.
package ipvstest
