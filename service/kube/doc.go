// Package kube feeds a service.Reconciler from a Kubernetes API server.
//
// # What it does
//
// Pure functions turn API objects into values of package service: [Service], [EndpointSlice], [NodeOf]. They parse as Kubernetes does (leading zeros, host bits, spaces
// around source ranges), know what absent fields mean, and never panic, whatever an object holds. A project with informers of its own needs only these.
//
// A [Source] lists and watches Services, EndpointSlices, the Node and the ServiceCIDRs with client-go's reflectors and passes them on to a [Sink], with kube-proxy's
// selectors: no headless Services, none that name another proxy. It keeps no second copy of the objects, only their keys; the Sink holds their values. A [Recorder] writes Events
// about Services that are not served as they ask.
//
//	source, err := kube.New(config, reconciler, kube.Options{NodeName: name})
//	go source.Run(ctx)
//	<-source.Synced()
//	reconciler.Run(ctx)
//
// # What it owns, and what it never touches
//
// In the API server: nothing. It reads, and a Recorder creates Events.
//
// # Failure
//
// Nothing that the API server does ends a Source, and nothing changes but by what it says: down, half open (a watch that is silent for 100 s is begun anew), 410 Gone,
// 429, 403. Whoever begins to program after Synced, and not before, never acts upon a partial picture: a restart while the API server is down leaves the kernel as it is,
// for as long as that takes; no snapshot on disk is needed for it. Only a node that boots while the API server is down has no Services until it is back, as with kube-proxy.
// If more than half of the Services or of the EndpointSlices are missing in a list, they are kept for a minute (Options.Hold): that is what a restored etcd looks
// like. ServiceCIDRs may be refused or unknown to the API server; unused addresses are then not dropped.
//
// # Privileges
//
// RBAC: list and watch services, endpointslices (discovery.k8s.io), nodes, servicecidrs (networking.k8s.io); for a Recorder, create events. Kubernetes 1.25 or later.
//
// # Concurrency
//
// A Source may be asked by several goroutines at once; Run is called once, waits for the goroutines that it starts, and ends with its context.
package kube
