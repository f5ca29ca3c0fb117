// Package flowtable runs the packet flow tables of service/servicetest on a dataplane.
//
// The tables are Kubernetes objects in YAML, so they pass through service/kube's conversion and a service.Reconciler before they reach the dataplane:
//
//	func TestFlows(t *testing.T) {
//		flowtable.Run(t, flowtable.Options{}, func(t testing.TB) servicetest.Subject { return newSubject(t) })
//	}
//
// A subject is made for each case; the steps of the case change it, as a live node is changed. After each step a second sync must write nothing. The same cases
// run as IPv6 twins. servicetest.RunRandom asks the same of random states.
package flowtable
