// Package takeover turns a node that flannel has set up into one of podnet, and back, while its pods go on working.
//
// What it does, in four parts, each of which can be planned and shown before it is done:
//
//   - the kernel ([FromFlannel], [ToFlannel]): flannel's devices and routes get podnet's mark in place, so that the packages vxlan and hostgw find them as their
//     own. Nothing is deleted and made again; a route is replaced by an equal one of another protocol.
//   - the rules ([Rules]): flannel's masquerading is removed once podnet's stands.
//   - the leases ([Leases]): what host-local has handed out goes into the store of podnet-cni, or the other way round.
//   - the runtime's configuration ([Conflists]): flannel's list is set aside, and brought back.
//
// What it owns and how it recognises it: a vxlan device of flannel has flannel's name for its VNI (flannel.1, flannel-v6.1) and no alias, or [Alias]; a route
// of flannel has protocol boot and leads through such a device, or over the uplink to the podCIDR of a peer. A directory of leases that was handed over is moved aside,
// and a file stands in its place (see [Leases]). A list that was set aside ends in [Aside].
//
// What it never touches: other devices, routes to other destinations or of other protocols, other programs' rules, leases of other networks, lists that do not name flannel.
//
// Failure: every step is repeatable, and one that was cut short is finished by the next run. Two programs never hand out addresses from one podCIDR at a time: the
// leases are copied under the locks of both, durably, and only then the other one is let in.
//
// Privileges: CAP_NET_ADMIN for the kernel, root for the directories of the leases. Concurrency: one agent per node; its lock sees to that.
package takeover
