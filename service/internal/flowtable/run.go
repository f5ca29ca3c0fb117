package flowtable

import (
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
	"github.com/podnet/podnet/service/servicetest"
)

// Options are the settings of Run. The zero Options run everything.
type Options struct {
	// Skip returns why a row cannot be asked of this dataplane, or "" if it can. It is told the name of the case. nil skips none.
	Skip func(name string, f Flow) string

	// Agrees says whether an answer is what was wanted. nil: if both are the same. Real packets are samples, see wire.Agrees.
	Agrees func(got, want servicetest.Verdict) bool

	// Resync lets a second full sync, after Observe, follow each step: it must write nothing either. It costs a read of the kernel.
	Resync bool
}

// Run runs all cases, each on a subject of its own, and compares the answer to each packet.
func Run(t *testing.T, o Options, subject func(testing.TB) servicetest.Subject) {
	t.Helper()
	cases, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.run(t, o, subject(t)) })
	}
}

func (c Case) run(t *testing.T, o Options, s servicetest.Subject) {
	r := service.New(s, service.Options{})
	objects := map[Object]func(){}
	for _, step := range c.Steps {
		s.SetMachine(step.Machine)
		step.tell(t, r, objects)
		syncTwice(t, r, o)
		c.ask(t, o, s, step)
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Errorf("cleanup: %v", err)
	}
}

// tell gives the step's node and objects to a sink. objects remembers what takes back the last state of each.
func (s Step) tell(t *testing.T, sink kube.Sink, objects map[Object]func()) {
	t.Helper()
	sink.SetNode(s.Machine.Node)
	for _, d := range s.Delete {
		undo, ok := objects[d]
		if !ok {
			t.Fatalf("step %q deletes %v, which is not there", s.Name, d)
		}
		undo()
		delete(objects, d)
	}
	for _, text := range s.Objects {
		object, undo, err := set(sink, text)
		if err != nil {
			t.Fatalf("step %q: %v", s.Name, err)
		}
		objects[object] = undo
	}
}

// ask sends the step's packets.
func (c Case) ask(t *testing.T, o Options, w servicetest.Walker, s Step) {
	t.Helper()
	for _, f := range s.Flows {
		if o.Skip != nil && o.Skip(c.Name, f) != "" {
			continue
		}
		name := f.Name
		if s.Name != "" {
			name = s.Name + ": " + name
		}
		got, err := w.Lookup(f.Packet)
		agree := got.String() == f.Want.String()
		if o.Agrees != nil {
			agree = o.Agrees(got, f.Want)
		}
		if err != nil {
			t.Errorf("%s: %s: %v", name, f.Packet, err)
		} else if !agree {
			t.Errorf("%s: %s\n got %s\nwant %s", name, f.Packet, got, f.Want)
		}
	}
}

// syncTwice syncs, and proves that a second sync has nothing to write.
func syncTwice(t *testing.T, r *service.Reconciler, o Options) {
	t.Helper()
	for second := range 2 {
		report, err := r.Sync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n, err := range report.Failed {
			t.Errorf("%s failed: %v", n, err)
		}
		if second > 0 && report.Writes > 0 {
			t.Errorf("the second sync wrote %d objects", report.Writes)
		}
		if o.Resync {
			r.Resync()
		}
	}
}

// set gives an object to a sink, as service/kube's Source does, and returns how it is taken back.
func set(r kube.Sink, text []byte) (Object, func(), error) {
	var meta struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return Object{}, nil, err
	}
	o := Object{meta.Kind, meta.Metadata.Namespace, meta.Metadata.Name}
	switch o.Kind {
	case "Service":
		in := &corev1.Service{}
		if err := yaml.UnmarshalStrict(text, in); err != nil {
			return o, nil, err
		}
		name := service.Name{Namespace: o.Namespace, Name: o.Name}
		undo := func() { r.DeleteService(name) }
		out, ok := kube.Service(in)
		if !ok || in.Labels[kube.LabelProxyName] != "" {
			undo()
		} else {
			r.SetService(out)
		}
		return o, undo, nil
	case "EndpointSlice":
		in := &discoveryv1.EndpointSlice{}
		if err := yaml.UnmarshalStrict(text, in); err != nil {
			return o, nil, err
		}
		of, out, ok := kube.EndpointSlice(in)
		if !ok {
			return o, func() {}, nil
		}
		r.SetSlice(of, o.Name, out)
		return o, func() { r.DeleteSlice(of, o.Name) }, nil
	}
	return o, nil, fmt.Errorf("kind %q", o.Kind)
}
