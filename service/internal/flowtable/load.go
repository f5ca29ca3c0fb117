package flowtable

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/podnet/podnet/service/servicetest"
)

// file is a file of testdata/flows; its README.md says what the fields mean.
type file struct {
	Source string `json:"source"`
	variant
	Cases []variant `json:"cases"`
}

type variant struct {
	Name      string                     `json:"name"`
	Twin      *bool                      `json:"twin"`
	Node      map[string]json.RawMessage `json:"node"`
	Objects   []json.RawMessage          `json:"objects"`
	Flows     []row                      `json:"flows"`
	Overrides map[string]row             `json:"overrides"`
	Then      []step                     `json:"then"`
}

type step struct {
	Name    string                     `json:"name"`
	Node    map[string]json.RawMessage `json:"node"`
	Objects []json.RawMessage          `json:"objects"`
	Delete  []string                   `json:"delete"`
	Flows   []row                      `json:"flows"`
}

type row struct {
	Name     string          `json:"name"`
	From     netip.Addr      `json:"from"`
	To       netip.Addr      `json:"to"`
	Port     uint16          `json:"port"`
	Protocol string          `json:"protocol"`
	In       string          `json:"in"`
	Want     json.RawMessage `json:"want"`
	Masq     json.RawMessage `json:"masq"`
	Affinity string          `json:"affinity"`
	Tags     []string        `json:"tags"`
}

// Case is a table on one node: the first step makes the node, the others change it.
type Case struct {
	Name  string
	Steps []Step
}

// Step is a change and the packets after it.
type Step struct {
	Name    string
	Machine servicetest.Machine
	Objects []json.RawMessage // created or replaced
	Delete  []Object
	Flows   []Flow
}

// Object names an API object.
type Object struct{ Kind, Namespace, Name string }

// Flow is a packet and what must become of it.
type Flow struct {
	Name   string
	Packet servicetest.Packet
	Want   servicetest.Verdict
	Tags   []string
}

// Load reads all tables, with the IPv6 twins.
func Load() ([]Case, error) {
	files, err := fs.Glob(servicetest.Flows(), "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Case
	for _, name := range files {
		text, err := fs.ReadFile(servicetest.Flows(), name)
		if err != nil {
			return nil, err
		}
		cases, err := parse(strings.TrimSuffix(name, ".yaml"), text)
		if err != nil {
			return nil, fmt.Errorf("flowtable: %s: %w", name, err)
		}
		all = append(all, cases...)
	}
	return all, nil
}

func parse(name string, text []byte) ([]Case, error) {
	four, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	six, err := twin(four)
	if err != nil {
		return nil, err
	}
	var cases []Case
	for family, text := range map[string][]byte{"": four, " (IPv6)": six} {
		var f file
		if err := yaml.UnmarshalStrict(text, &f); err != nil {
			return nil, err
		}
		variants := f.Cases
		if len(variants) == 0 {
			variants = []variant{{}}
		}
		for _, v := range variants {
			if family != "" && (no(f.Twin) || no(v.Twin)) {
				continue
			}
			c, err := f.build(v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.Name, err)
			}
			c.Name = strings.TrimSuffix(name+"/"+v.Name, "/") + family
			cases = append(cases, c)
		}
	}
	slices.SortStableFunc(cases, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return cases, nil
}

func no(b *bool) bool { return b != nil && !*b }

// build joins the file and one of its cases.
func (f file) build(v variant) (Case, error) {
	rows := slices.Concat(f.Flows, v.Flows)
	for name, o := range v.Overrides {
		i := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
		if i < 0 {
			return Case{}, fmt.Errorf("override of %q, which is no flow", name)
		}
		if string(o.Want) == string(rows[i].Want) || string(o.Masq) == string(rows[i].Masq) && o.Masq != nil {
			return Case{}, fmt.Errorf("override of %q changes nothing", name)
		}
		if o.Want != nil {
			rows[i].Want = o.Want
		}
		if o.Masq != nil {
			rows[i].Masq = o.Masq
		}
	}
	then := f.Then
	if v.Then != nil {
		then = v.Then
	}
	steps := append([]step{{Node: merge(f.Node, v.Node), Objects: slices.Concat(f.Objects, v.Objects), Flows: rows}}, then...)
	var c Case
	node := map[string]json.RawMessage{}
	for _, s := range steps {
		node = merge(node, s.Node)
		one, err := s.build(node)
		if err != nil {
			return Case{}, fmt.Errorf("step %q: %w", s.Name, err)
		}
		c.Steps = append(c.Steps, one)
	}
	return c, nil
}

func (s step) build(node map[string]json.RawMessage) (Step, error) {
	out := Step{Name: s.Name, Objects: s.Objects}
	var err error
	if out.Machine, err = machine(node); err != nil {
		return Step{}, err
	}
	for _, d := range s.Delete {
		kind, rest, _ := strings.Cut(d, " ")
		namespace, name, ok := strings.Cut(rest, "/")
		if !ok || kind != "Service" && kind != "EndpointSlice" {
			return Step{}, fmt.Errorf(`delete %q: want "Service ns/name" or "EndpointSlice ns/name"`, d)
		}
		out.Delete = append(out.Delete, Object{kind, namespace, name})
	}
	for _, r := range s.Flows {
		f, err := r.build()
		if err != nil {
			return Step{}, fmt.Errorf("flow %q: %w", r.Name, err)
		}
		out.Flows = append(out.Flows, f)
	}
	return out, nil
}

// merge returns a with the keys of b replaced.
func merge(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]json.RawMessage{}
	}
	maps.Copy(out, b)
	return out
}

func (r row) build() (Flow, error) {
	if !r.From.IsValid() || !r.To.IsValid() || r.Port == 0 {
		return Flow{}, fmt.Errorf("needs from, to and port")
	}
	f := Flow{Name: r.Name, Tags: r.Tags, Packet: servicetest.Packet{From: r.From, To: r.To, Port: r.Port, In: r.In}}
	var err error
	if f.Packet.Protocol, err = protocol(r.Protocol); err != nil {
		return Flow{}, err
	}
	if r.Affinity != "" {
		if f.Want.Affinity, err = time.ParseDuration(r.Affinity); err != nil {
			return Flow{}, err
		}
	}
	f.Want.Outcome, f.Want.Targets, err = r.targets()
	return f, err
}

// targets reads want and masq.
func (r row) targets() (servicetest.Outcome, []servicetest.Target, error) {
	var want []netip.AddrPort
	switch w := string(r.Want); w {
	case "", "null":
		return servicetest.Pass, nil, r.noMasq()
	case `"REJECT"`:
		return servicetest.Rejects, nil, r.noMasq()
	case `"DROP"`:
		return servicetest.Drops, nil, r.noMasq()
	default:
		if err := json.Unmarshal(r.Want, &want); err != nil || len(want) == 0 {
			return 0, nil, fmt.Errorf("want %s: no list of endpoints, REJECT or DROP: %w", w, err)
		}
	}
	var some []netip.AddrPort
	var all bool
	if len(r.Masq) > 0 && json.Unmarshal(r.Masq, &all) != nil {
		if err := json.Unmarshal(r.Masq, &some); err != nil {
			return 0, nil, fmt.Errorf("masq: %w", err)
		}
	}
	var targets []servicetest.Target
	for _, a := range want {
		targets = append(targets, servicetest.Target{Addr: a, Masquerade: all || slices.Contains(some, a)})
	}
	return servicetest.Forwards, targets, nil
}

func (r row) noMasq() error {
	if len(r.Masq) > 0 {
		return fmt.Errorf("masq without an endpoint")
	}
	return nil
}
