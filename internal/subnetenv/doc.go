// Package subnetenv reads and writes the node's subnet file, in the format that flannel calls subnet.env.
//
// What it does: [Read] and [Parse] turn the file into an [Env], [Write] writes an Env. The agent writes the file, the CNI plugin
// reads it; either side may be flannel's own.
//
//	FLANNEL_NETWORK=10.244.0.0/16
//	FLANNEL_SUBNET=10.244.1.1/24
//	FLANNEL_IPV6_NETWORK=fd00:244::/48
//	FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
//	FLANNEL_MTU=1450
//	FLANNEL_IPMASQ=true
//
// What it owns: the one file that it is told to write, and hidden temporary files of the same name in the same directory while it writes.
//
// What it never touches: anything else.
//
// Failure: a file that is not whole is an error that names line, key and value, never a guess and never a panic. Write puts a new file
// beside the old one, makes it durable and renames it, so that a reader sees the old or the new file, and a crash leaves one of them.
//
// Privileges: those of the file. No kernel version.
//
// Concurrency: several readers and one writer, in any processes.
package subnetenv
