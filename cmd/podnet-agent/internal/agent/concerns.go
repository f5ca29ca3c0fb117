package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/handoff"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/internal/reconcile"
	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// Names of the concerns, as logs, metrics and /readyz use them.
const (
	nameSysctl  = "sysctl"
	nameMasq    = "masq"
	nameHandoff = "handoff"
)

// Applier is a reconciler of the library with its kernel.
type Applier[C, P any] interface {
	Apply(ctx context.Context, want C) (P, error)
}

// Parts are what the concerns of a node are made of.
type Parts struct {
	Kernel Kernel
	VXLAN  Applier[vxlan.Config, rtnl.Plan]
	HostGW Applier[hostgw.Config, rtnl.Plan]
	Masq   Applier[masq.Config, masq.Plan]
	Files  handoff.Files
	List   handoff.Conflist
	IPMasq bool
	// NoForward leaves forwarded pod traffic to what other rules say.
	NoForward bool
	// Network is what the list keeps of flannel's; nil = nothing. Taking over fills it in.
	Network *takeover.Network
	// TakeOver is what is taken over of a node that flannel has set up; nil = nothing.
	TakeOver *TakeOver

	// LingerUntil is when what another backend left may go: until then nodes that have not changed their backend yet can still send to this one.
	LingerUntil time.Time

	DiskPatience time.Duration // how long a pass waits for the files to be written, once; 0 = 2 s
}

// Concerns returns the concerns of a node in the order in which they are applied: the backend in use, masquerading, and when the backend
// stands, the removal of what the other backends left. The files come last: who reads them may start pods at once.
func (p Parts) Concerns(c netconf.Config) []Concern {
	backend := func(name string) Concern {
		needs, used := []string{needNode, needUplink}, c.Backend.Type == name
		if !used {
			needs = []string{c.Backend.Type}
			if c.Backend.Type == netconf.Alloc {
				needs = []string{needNode}
			}
		}
		return Concern{name, needs, func(ctx context.Context, d Desired) Result {
			if !used && time.Now().Before(p.LingerUntil) {
				return Result{}
			}
			if name == netconf.VXLAN {
				return applyBackend(ctx, p.VXLAN, d, used, vxlanConfig)
			}
			return applyBackend(ctx, p.HostGW, d, used, hostgwConfig)
		}}
	}
	concerns := []Concern{{nameSysctl, []string{needUplink}, p.sysctls}, backend(netconf.VXLAN), backend(netconf.HostGW)}
	if c.Backend.Type == netconf.HostGW {
		concerns[1], concerns[2] = concerns[2], concerns[1]
	}
	concerns = append(concerns, Concern{nameMasq, []string{needNode}, p.masquerade})
	if p.TakeOver != nil {
		concerns = slices.Insert(concerns, 0, Concern{nameFlannel, []string{needNode, needUplink}, p.takeOverKernel})
		concerns = append(concerns, Concern{nameFlannelFiles, []string{needNode, needUplink, nameMasq, c.Backend.Type}, p.takeOverFiles})
	}
	needs := []string{needNode, needUplink}
	for _, c := range concerns {
		needs = append(needs, c.Name)
	}
	disk := slowWork{patience: p.DiskPatience}
	return append(concerns, Concern{nameHandoff, needs, func(_ context.Context, d Desired) Result {
		return disk.do(func() Result { return p.handoff(d) })
	}})
}

// Cleanup removes everything that the concerns own.
func (p Parts) Cleanup(ctx context.Context) (removed []string, err error) {
	files, err := p.Files.Remove() // first: no pod may start on a network that goes away
	errs := []error{err}
	for _, f := range files {
		removed = append(removed, "file "+f)
	}
	v, err := p.VXLAN.Apply(ctx, vxlan.Config{})
	errs = append(errs, err)
	h, err := p.HostGW.Apply(ctx, hostgw.Config{})
	errs = append(errs, err)
	m, err := p.Masq.Apply(ctx, masq.Config{})
	errs = append(errs, err)
	for line := range strings.Lines(v.String() + h.String() + m.String()) {
		removed = append(removed, strings.TrimSuffix(line, "\n"))
	}
	return removed, errors.Join(errs...)
}

// applyBackend leaves out the peers that contradict others or cannot be reached, and says so. Only when none at all is left, the
// backend does not stand: then it is not the peers' fault.
func applyBackend[C any](ctx context.Context, r Applier[C, rtnl.Plan], d Desired, used bool, config func(Desired) (C, []string)) Result {
	var want C
	var notes []string
	if used {
		want, notes = config(d)
	}
	done, err := r.Apply(ctx, want)
	refused, err := refusals(err)
	if n := len(d.Peers); used && n > 0 && len(refused) >= n*len(d.Locals) {
		err = errors.Join(err, fmt.Errorf("none of %d peers can be reached: %s", n, refused[0]))
	}
	if err != nil && d.flannel {
		err = fmt.Errorf("%w; flannel has set this node up: with --take-over flannel the agent takes it over as it is", err)
	}
	return Result{Writes: len(done), Plan: done.String, Notes: append(notes, refused...), Err: err}
}

// refusals takes the peers that are left out from a joined error. What remains is about the whole.
func refusals(err error) (notes []string, rest error) {
	if err == nil {
		return nil, nil
	}
	var others []error
	for _, e := range leaves(err) {
		var peer *peers.Error
		if errors.As(e, &peer) {
			notes = append(notes, e.Error())
		} else {
			others = append(others, e)
		}
	}
	return notes, errors.Join(others...)
}

func leaves(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}

// peer is another node in one address family.
type peer struct {
	name    string
	podCIDR netip.Prefix
	addr    netip.Addr
	mac     rtnl.MAC
}

// eachPeer calls add for every peer in every family that this node has, and returns one note for each that has to be left out.
func eachPeer(d Desired, add func(peer)) (notes []string) {
	type local struct {
		family  rtnl.Family
		network netip.Prefix
		device  string
	}
	locals := make([]local, 0, len(d.Locals))
	for _, l := range d.Locals {
		locals = append(locals, local{l.Family, d.Net.Network(l.Family), vxlan.DeviceName(d.Net.Backend.VNI, l.Family)})
	}
	// Node by node: peers in the order of their names and podCIDRs need not be sorted any more, a tenth of a pass.
	for _, n := range d.Peers {
		for _, l := range locals {
			p := peer{n.Name, n.PodCIDR(l.family), n.Address(l.family), n.MAC(l.family)}
			if p.mac.IsZero() {
				p.mac = vxlan.MACFor(n.Name, l.device)
			}
			switch {
			case !p.podCIDR.IsValid(): // a node of the other family
			case !inside(l.network, p.podCIDR):
				notes = append(notes, fmt.Sprintf("node %q: podCIDR %v is outside the network %v", n.Name, p.podCIDR, l.network))
			case !p.addr.IsValid():
				notes = append(notes, fmt.Sprintf("node %q: has a podCIDR but no address of IPv%d", n.Name, l.family))
			case l.network.Contains(p.addr):
				notes = append(notes, fmt.Sprintf("node %q: address %v is inside the pods' network %v", n.Name, p.addr, l.network))
			default:
				add(p)
			}
		}
	}
	return notes
}

func vxlanConfig(d Desired) (vxlan.Config, []string) {
	b := d.Net.Backend
	c := vxlan.Config{VNI: b.VNI, Port: b.Port, Underlay: d.Uplink.Name, DirectRouting: b.DirectRouting, Peers: make([]vxlan.Peer, 0, len(d.Locals)*len(d.Peers))}
	for _, l := range d.Locals {
		e := vxlan.Endpoint{Local: l.Addr, PodCIDR: l.PodCIDR, MAC: d.VTEPMAC(l.Family), Device: d.VTEP(l.Family)}
		if b.MTU != 0 {
			e.MTU = d.mtu(l.Family)
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	notes := eachPeer(d, func(p peer) {
		c.Peers = append(c.Peers, vxlan.Peer{Name: p.name, PodCIDR: p.podCIDR, Addr: p.addr, MAC: p.mac})
	})
	return c, notes
}

func hostgwConfig(d Desired) (hostgw.Config, []string) {
	c := hostgw.Config{Underlay: d.Uplink.Name, Peers: make([]hostgw.Peer, 0, len(d.Locals)*len(d.Peers))}
	for _, l := range d.Locals {
		c.Endpoints = append(c.Endpoints, hostgw.Endpoint{Local: l.Addr, PodCIDR: l.PodCIDR})
	}
	notes := eachPeer(d, func(p peer) {
		c.Peers = append(c.Peers, hostgw.Peer{Name: p.name, PodCIDR: p.podCIDR, Addr: p.addr})
	})
	return c, notes
}

func (p Parts) masquerade(ctx context.Context, d Desired) Result {
	var want masq.Config
	if p.IPMasq {
		want = masq.Config{ClusterCIDRs: d.Net.Networks, NonMasquerade: d.Net.NonMasqueradeCIDRs, Forward: !p.NoForward}
		for _, l := range d.Locals {
			want.PodCIDRs = append(want.PodCIDRs, l.PodCIDR)
		}
	}
	done, err := p.Masq.Apply(ctx, want)
	return Result{Writes: len(done), Plan: done.String, Err: err}
}

// sysctls turns forwarding on. A node with forwarding ignores router advertisements unless accept_ra is 2, so an uplink that has its IPv6
// routes from them keeps them that way; nothing else is touched, rp_filter above all.
func (p Parts) sysctls(ctx context.Context, d Desired) Result {
	var done rtnl.Plan
	var faults []error
	for _, f := range d.Net.Families() {
		steps, err := p.forwarding(ctx, f, d.Uplink.Name)
		for _, s := range steps {
			if err != nil {
				break
			}
			var wrote rtnl.Plan
			wrote, err = reconcile.Write(ctx, p.Kernel, rtnl.Plan{{Verb: rtnl.Set, Object: s}})
			done = append(done, wrote...)
		}
		faults = append(faults, err)
	}
	return Result{Writes: len(done), Plan: done.String, Err: errors.Join(faults...)}
}

// forwarding returns the settings that a family lacks. Each is to be made only after those before it.
func (p Parts) forwarding(ctx context.Context, f rtnl.Family, uplink string) (steps []rtnl.Sysctl, err error) {
	name := "net/ipv4/ip_forward"
	if f == rtnl.IPv6 {
		name = "net/ipv6/conf/all/forwarding"
	}
	have, err := p.Kernel.Sysctl(ctx, name)
	if err != nil || have == "1" {
		return nil, err
	}
	if f == rtnl.IPv6 {
		acceptRA := "net/ipv6/conf/" + uplink + "/accept_ra"
		have, err := p.Kernel.Sysctl(ctx, acceptRA)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if have == "1" {
			steps = append(steps, rtnl.Sysctl{Name: acceptRA, Value: "2"})
		}
	}
	return append(steps, rtnl.Sysctl{Name: name, Value: "1"}), nil
}

func (p Parts) handoff(d Desired) Result {
	env := subnetenv.Env{Networks: d.Net.Networks, MTU: d.PodMTU(), IPMasq: p.IPMasq}
	for _, l := range d.Locals {
		env.Subnets = append(env.Subnets, netip.PrefixFrom(l.PodCIDR.Addr().Next(), l.PodCIDR.Bits()))
	}
	list := p.Conflist()
	if !p.IPMasq {
		list.NonMasqueradeCIDRs = d.Net.NonMasqueradeCIDRs
	}
	paths, err := p.Files.Apply(env, list)
	return Result{Writes: len(paths), Plan: func() string { return "file " + strings.Join(paths, "\nfile ") }, Err: err}
}

// Names returns the names of all states that an agent with these concerns reports.
func Names(concerns []Concern) []string {
	names := []string{needNode, needUplink}
	for _, c := range concerns {
		names = append(names, c.Name)
	}
	return names
}
