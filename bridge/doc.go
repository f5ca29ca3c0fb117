// Package bridge keeps the node's pod bridge (cni0): the Linux bridge whose ports are the host ends of the pods' links, and whose
// addresses are the pods' gateways.
//
// What it does: [Reconciler.Apply] makes the bridge, or corrects what differs: MAC, MTU, up, gateway addresses (IPv6 ones without duplicate address
// detection; accept_dad=0 for the link-local one too), accept_ra=0, and forwarding in each family that has a gateway. In the usual case that nothing differs it reads one link, its addresses and at most
// seven sysctls, and writes nothing: it is cheap enough for every pod ADD.
//
// What it owns and how it recognises it: a bridge that it made carries the alias "podnet:bridge" ([Mark]). On it every address but
// link-local ones is ours: one that Config does not name is removed. (A bridge without any alias whose MAC is the one derived from Config is ours too: a
// process was killed between the two messages that make it.) The MAC is given at creation and put back if somebody changes it, so it never follows that of a port.
//
// What it never touches: a bridge that somebody else made is used as it is. It is set up if it is down, and gets the gateway addresses and the sysctls;
// its MAC and MTU stay, its other addresses stay, and it is never deleted. An address on it that is in the way (another IPv4 address, or one whose subnet
// overlaps a gateway's) is an error that names both, unless Config.ForceAddress. Ports, VLAN filtering, STP and multicast snooping are not this package's.
//
// Forwarding is switched on and never off again, also not by cleanup: others may need it. For IPv6 it makes the node a router on every device, which
// then ignores router advertisements unless accept_ra is 2 (Linux Documentation/networking/ip-sysctl.rst).
//
// Failure: a fault in Config is reported, all faults at once, before the kernel is asked anything. A change that the kernel refuses does not stop the
// others; the next Apply does what is left. Several processes that make the same bridge at the same time end in one bridge without error.
//
// Privileges and kernel: CAP_NET_ADMIN, and a writable /proc/sys; Linux 4.17 (an MTU that stays), 5.3 for what rtnl needs. Without IPv6 in
// the kernel, IPv4 works.
//
// Concurrency: a Reconciler has no state; it may be used by several goroutines and processes.
package bridge
