// Package conntrack removes stale flows of Services from the kernel's connection tracking, and sets its limits.
//
// # What it does
//
// The kernel decides once per flow where a Service's packets go, at its first packet, and UDP has no end: a client that keeps sending, such as a resolver or a
// statsd client, keeps a flow alive that leads to an endpoint which is gone, or to nobody (kubernetes#48370, #125467, #139628: 13 hours). A [Config] names frontends, and for each
// who may serve it. [Reconciler.Apply] deletes every UDP flow whose original destination is one of them and whose reply does not come from one who serves. The next packet then finds its way by
// the present rules. By this one rule, which looks at state and not at events, all six cases are covered:
//
//	an endpoint is removed        the reply source is not among those that serve
//	the last endpoint is removed  nobody serves: every flow goes
//	the first endpoint is added   flows recorded without translation reply from the frontend itself, which is no endpoint
//	the Service is deleted        its frontends, with nobody who serves
//	a ClusterIP is reused         flows of the former Service reply from its endpoints
//	nobody ran meanwhile          a Config of all frontends; [Config].ServiceCIDRs finds those that nobody knows any more
//
// TCP and SCTP end by themselves, but for one case: a connection whose first packet comes while nothing stands, between a flush of the rules and their repair or before this host's first
// sync, is recorded without translation, and all that the client sends afterwards goes the same way, until it gives up. [Config].Restored names frontends that stand again:
// connections to them that were neither translated nor answered go, and the client's next SYN finds its way.
//
// Who serves means every endpoint that does, whatever traffic policy, topology or termination say: editing a Service cuts no flow.
//
// # What it owns
//
// Nothing that lasts. A flow is recognised by its original destination, and deleted by its tuple together with its kernel id, so that a new flow with the same addresses and ports is never hit.
//
// # What it never touches
//
// Connections of TCP and SCTP that were translated or answered (kubernetes#102631). Flows in another zone than 0. Flows to another address than a Service's or, of node ports, a local one: kube-proxy 1.36 takes every
// flow to the port, also one that leaves for a foreign host. A [Limits] sets only those sysctls that its fields name.
//
// # Failure
//
// One family that fails does not stop the other. A dump which the kernel calls interrupted is repeated; what was deleted so far stays deleted. A flow that ended meanwhile is no
// error. A kernel without conntrack over netlink is one error that names the module and the option. Stale flows that could not be deleted are found again by the next Apply, and [Queue] repeats it.
//
// # Cost
//
// One dump per family and protocol that has frontends. The kernel filters it by protocol and, where all frontends share them, by address and port (CTA_FILTER, Linux 5.8; older kernels send everything
// and it is filtered here). Flows are compared as they stream by, nothing is kept of them, and the stale ones are deleted in batches meanwhile: memory does not grow with the table. With 200,000
// UDP flows (Linux 6.18, 2 cores) a change of one Service takes 55 ms and 0.1 MB, looking at every flow 0.4 s and 0.3 MB, deleting every flow 0.9 s. Listing them once with
// vishvananda/netlink, which kube-proxy does for each change, and again to delete, takes 0.9 s, 193 MB and 13 million allocations.
//
// # Privileges and versions
//
// CAP_NET_ADMIN, and CAP_SYS_ADMIN to enter another namespace; nf_conntrack_netlink; Linux 4.19. Limits needs a writable /proc/sys. Elsewhere errors match [errors.ErrUnsupported].
//
// # Concurrency
//
// A [Reconciler], a [Conn] and a [Queue] may be used by several goroutines at once. Nothing here starts a goroutine; [Queue.Run] is one of the caller's.
package conntrack
