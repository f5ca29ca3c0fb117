package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/podnet/podnet/service"
)

// Sink takes what a Source finds. A *service.Reconciler is one. A Source calls it from several goroutines at once.
type Sink interface {
	SetService(service.Service)
	DeleteService(service.Name)
	SetSlice(service service.Name, slice string, s service.Slice)
	DeleteSlice(service service.Name, slice string)
	SetNode(service.Node)
}

// Options are the settings of a Source. NodeName is needed for endpoints to be local; everything else works as zero.
type Options struct {
	// NodeName is the name of the Node that is watched and passed to Node.
	NodeName string

	// Node makes the Sink's node of what the API says. nil: name, zone and addresses, and no local pods. It reports false while too little is known to program anything:
	// then Synced waits. It is called with each change and must not call the Source.
	Node func(Node, []netip.Prefix) (service.Node, bool)

	// ProxyName makes the Source serve Services with this value of the label service.kubernetes.io/service-proxy-name. "" serves those without the label, as the cluster's
	// own proxy does.
	ProxyName string

	// Hold is how long Services and EndpointSlices are kept when more than half of them are missing in a list: a broken API server, or one whose etcd was restored, is
	// then more likely than the wish. 0 is one minute; negative does not keep them. What a watch reports as deleted is deleted at once.
	Hold time.Duration

	// Changed is told when an EndpointSlice changed because of something that happened at a time (the annotation endpoints.kubernetes.io/last-change-trigger-time). nil is nobody.
	Changed func(of service.Name, at time.Time)

	// Logger is told when the API server stops and begins to answer, and of what is held. nil discards.
	Logger *slog.Logger
}

// Source feeds a Sink from an API server. Make one with New.
type Source struct {
	client *client
	sink   Sink
	o      Options
	synced chan struct{} // closed when everything was listed once

	services, slices, nodes, cidrs *store
	health                         health
	watches                        sync.WaitGroup

	mu       sync.Mutex // guards what follows
	node     Node
	ranges   map[string][]netip.Prefix // ServiceCIDRs by name
	waiting  string                    // what Synced waits for
	isSynced bool
}

// New returns a Source for an API server. It asks nobody.
func New(config *rest.Config, sink Sink, o Options) (*Source, error) {
	c, err := newClient(config)
	if err != nil {
		return nil, fmt.Errorf("service: kube: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Hold == 0 {
		o.Hold = time.Minute
	}
	if o.Node == nil {
		o.Node = func(n Node, cidrs []netip.Prefix) (service.Node, bool) {
			return service.Node{Name: o.NodeName, Zone: n.Zone, Addrs: n.Addrs, ServiceCIDRs: cidrs}, true
		}
	}
	s := &Source{client: c, sink: sink, o: o, synced: make(chan struct{}), ranges: map[string][]netip.Prefix{}}
	s.health.log = o.Logger
	s.services = newStore(s, "services", s.setService, s.deleteService)
	s.slices = newStore(s, "endpointslices", s.setSlice, s.deleteSlice)
	s.nodes = newStore(s, "nodes", s.setNode, s.deleteNode)
	s.cidrs = newStore(s, "servicecidrs", s.setCIDR, s.deleteCIDR)
	s.services.guarded, s.slices.guarded = o.Hold > 0, o.Hold > 0
	return s, nil
}

// Run lists and watches until ctx ends, and returns its error. Nothing that the API server does ends it.
func (s *Source) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, r := range []struct {
		kind  resource
		store *store
	}{{s.client.services(s.o.ProxyName), s.services}, {s.client.slices(), s.slices}, {s.client.node(s.o.NodeName), s.nodes}, {s.client.cidrs(), s.cidrs}} {
		if r.store == s.nodes && s.o.NodeName == "" {
			_ = s.nodes.Replace(nil, "")
			continue
		}
		// client-go's own waits grow to a minute; one of at most 20 s costs the API server 0.1 requests per second and kind.
		backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 16, Cap: 10 * time.Second}
		reflector := cache.NewReflectorWithOptions(s.listWatch(r.kind), r.kind.example, r.store,
			cache.ReflectorOptions{Name: "podnet " + r.kind.name, TypeDescription: r.kind.name, Backoff: &backoff})
		all.Go(func() { reflector.RunWithContext(ctx) })
	}
	all.Go(func() { s.letGo(ctx) })
	all.Wait()
	s.watches.Wait()
	return ctx.Err()
}

// Synced is closed when Services, EndpointSlices and the Node were listed once, ServiceCIDRs too if the API server has them, and Options.Node is content: from then
// on the Sink has a whole picture, and not before.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// letGo deletes what was held, when its time has come.
func (s *Source) letGo(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.services.letGo(now)
			s.slices.letGo(now)
			select {
			case <-s.synced:
			default:
				s.listed() // Options.Node may be content by now with what it had before
			}
		}
	}
}

// listed looks whether everything is there.
func (s *Source) listed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isSynced {
		return
	}
	s.waiting = ""
	for _, st := range []*store{s.services, s.slices, s.nodes} {
		if !st.listed.Load() {
			s.waiting = "the list of " + st.name
			return
		}
	}
	if !s.cidrs.listed.Load() && !s.health.lacks(s.cidrs.name) {
		s.waiting = "the list of " + s.cidrs.name
		return
	}
	if !s.tellNode() {
		s.waiting = "the Node"
		return
	}
	s.isSynced = true
	close(s.synced)
}

// tellNode passes the node on. The caller holds mu.
func (s *Source) tellNode() bool {
	var ranges []netip.Prefix
	for _, r := range s.ranges {
		ranges = append(ranges, r...)
	}
	slices.SortFunc(ranges, netip.Prefix.Compare)
	node, ok := s.o.Node(s.node, slices.Compact(ranges))
	if ok {
		s.sink.SetNode(node)
	}
	return ok
}

// changeNode applies a change of the node or of the ServiceCIDRs.
func (s *Source) changeNode(change func()) {
	s.mu.Lock()
	change()
	tell := s.isSynced
	if tell {
		s.tellNode()
	}
	s.mu.Unlock()
	if !tell {
		s.listed()
	}
}

func (s *Source) setService(object any) (id identity, ok bool) {
	in, ok := object.(*corev1.Service)
	if !ok {
		return identity{}, false
	}
	out, ok := Service(in)
	if !ok || in.Labels[LabelProxyName] != s.o.ProxyName {
		return identity{}, false
	}
	s.sink.SetService(out)
	return identity{of: out.Name, uid: string(in.UID)}, true
}

func (s *Source) deleteService(_ string, id identity) { s.sink.DeleteService(id.of) }

func (s *Source) setSlice(object any) (id identity, ok bool) {
	in, ok := object.(*discoveryv1.EndpointSlice)
	if !ok {
		return identity{}, false
	}
	of, out, ok := EndpointSlice(in)
	if !ok {
		return identity{}, false
	}
	if _, headless := in.Labels[corev1.IsHeadlessService]; headless {
		return identity{}, false
	}
	if at := in.Annotations[corev1.EndpointsLastChangeTriggerTime]; at != "" && s.o.Changed != nil { // before the sync that it leads to
		if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
			s.o.Changed(of, t)
		}
	}
	s.sink.SetSlice(of, in.Name, out)
	return identity{of: of}, true
}

func (s *Source) deleteSlice(key string, id identity) {
	_, name, err := cache.SplitMetaNamespaceKey(key)
	if err == nil {
		s.sink.DeleteSlice(id.of, name)
	}
}

func (s *Source) setNode(object any) (id identity, ok bool) {
	in, ok := object.(*corev1.Node)
	if !ok || in.Name != s.o.NodeName {
		return identity{}, false
	}
	next := NodeOf(in)
	s.mu.Lock()
	same := s.node.Equal(next)
	s.mu.Unlock()
	if !same { // most changes of a Node are heartbeats
		s.changeNode(func() { s.node = next })
	}
	return identity{}, true
}

// deleteNode keeps what is known of the node: its Services work on until it is gone for good.
func (s *Source) deleteNode(string, identity) {
	s.changeNode(func() { s.node.Exists, s.node.Deleting = false, true })
}

func (s *Source) setCIDR(object any) (id identity, ok bool) {
	in, ok := object.(*networkingv1.ServiceCIDR)
	if !ok {
		return identity{}, false
	}
	s.changeNode(func() { s.ranges[in.Name] = serviceCIDRs(in) })
	return identity{}, true
}

func (s *Source) deleteCIDR(key string, _ identity) {
	s.changeNode(func() { delete(s.ranges, key) })
}

// Node returns what is known of the node.
func (s *Source) Node() Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// UID returns the UID of a Service, for an Event about it; "" if it is not known.
func (s *Source) UID(n service.Name) string {
	return s.services.identity(n.Namespace + "/" + n.Name).uid
}
