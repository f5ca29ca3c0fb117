// Podnet-cni is a CNI plugin: it attaches containers to a bridge on their node, gives them addresses from the node's podCIDR, and
// masquerades what they send out of the cluster. It takes the configuration of the containernetworking plugins bridge and host-local; see docs/cni-plugin.md.
//
// What it does: one process runs one verb (CNI 1.1: ADD, DEL, CHECK, GC, STATUS, VERSION). It composes the packages bridge, veth, ipam and
// masq in process; it starts no other process.
//
// What it owns: the leases of the networks that it is configured for (below dataDir); host-side veth ends that carry its alias; the bridge that
// it made (marked by its alias); its own masquerade table.
//
// What it never touches: anything else. A container's namespace is entered on ADD and CHECK only; DEL and GC find a container's link by
// its mark on the node's side, never by the path of a namespace, which may belong to another container by then.
//
// Failure: everything is validated before the first write. A failed ADD takes back what it did. A killed ADD leaves at most a lease and a link that DEL,
// GC or the next ADD of the same container clears. Errors carry the codes of the CNI specification.
//
// Privileges and kernel: CAP_NET_ADMIN and CAP_SYS_ADMIN, root for /proc/sys and the state directory; Linux 5.3.
//
// Concurrency: any number of processes at once. Those for one attachment (container and interface) run one after the other.
package main
