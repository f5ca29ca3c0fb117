// Package servicetest holds what tests need in place of a kernel with Services in it: a fake dataplane, a walk for packets, the flow tables, an oracle and random states, and the
// contract of the dataplanes.
//
// [Dataplane] is the fake. It stores the programs it is given, refuses what [Dataplane.Fault] says, and answers for packets:
//
//	d := new(servicetest.Dataplane)
//	r := service.New(d, service.Options{})
//	r.SetNode(node)
//	r.SetService(web)
//	if _, err := r.Sync(ctx); err != nil {
//		t.Fatal(err)
//	}
//	verdict, _ := d.Lookup(servicetest.Packet{From: client, To: vip, Port: 80, Protocol: service.TCP})
//	golden(t, d.Dump()) // sorted text
//
// [Lookup] and [Programs] are the same walk over programs, without a dataplane. [FailEach] runs a test once for every call that can fail.
//
// [World] is a whole desired state; [World.Lookup] is an oracle that answers from the Services and endpoints themselves, with no code of the plan. [RunRandom] compares any
// [Subject] (a dataplane that can be asked) with it on random worlds, and on changes of them. [Flows] are tables of objects and packets, kube-proxy's among
// them, for everybody; service/internal/flowtable runs them.
//
// [Contract] is what every dataplane keeps: it writes nothing twice, adopts what a process before it left, removes what is stale, isolates a bad Service, tells of and repairs
// foreign changes, and leaves nothing after a cleanup.
//
// The walk knows what no field of a program says: a wrong port of a ClusterIP is refused, an address in Node.ServiceCIDRs that no Service has is dropped,
// an endpoint of this node that reaches itself is masqueraded. Whether an endpoint of another node whose packet comes through here to itself is masqueraded, nobody says.
//
// The package owns nothing, touches no kernel and needs no privilege; it works on every platform. A Dataplane may be used by several goroutines at once, everything else by one.
package servicetest
