package iptablestest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/servicetest"
)

// walk is a packet on its way through the rules. Where chance decides, a walk takes one way; Lookup makes a walk for each.
type walk struct {
	kernel   *Kernel
	packet   servicetest.Packet
	dst      netip.Addr
	port     uint16
	mark     uint32
	table    chains
	dnat     bool
	affinity time.Duration
	remember bool // the endpoint's chain remembers the client

	choices []bool // how chance decides
	taken   int
	steps   int
}

// verdicts of a chain.
const (
	verdictNone   = "" // its end: go on behind the rule that led here
	verdictAccept = "ACCEPT"
	verdictDrop   = "DROP"
	verdictReject = "REJECT"
)

var errLost = errors.New("more than a million rules: the packet is lost")

// Lookup sends a packet through nat and filter, and returns all that may become of it. A packet without a device that comes from an address of the host starts at OUTPUT.
func (k *Kernel) Lookup(p servicetest.Packet) (servicetest.Verdict, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all servicetest.Verdict
	var choices []bool
	for first := true; ; first = false {
		w := &walk{kernel: k, packet: p, dst: p.To, port: p.Port, choices: choices}
		v, err := w.run()
		if err != nil {
			return servicetest.Verdict{}, fmt.Errorf("iptables walk: %s: %w", p, err)
		}
		if !first && (v.Outcome != all.Outcome || v.Affinity != all.Affinity) {
			return servicetest.Verdict{}, fmt.Errorf("iptables walk: %s: by chance %s or %s", p, all, v)
		}
		v.Targets = append(all.Targets, v.Targets...)
		all = v
		// The next way: the last choice that was yes becomes no.
		choices = w.choices[:w.taken]
		for len(choices) > 0 && !choices[len(choices)-1] {
			choices = choices[:len(choices)-1]
		}
		if len(choices) == 0 {
			return all, nil
		}
		choices = append(slices.Clone(choices[:len(choices)-1]), false)
	}
}

// Steps returns with how many rules a packet is compared, when chance always says yes.
func (k *Kernel) Steps(p servicetest.Packet) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := &walk{kernel: k, packet: p, dst: p.To, port: p.Port}
	if _, err := w.run(); err != nil {
		return 0, fmt.Errorf("iptables walk: %s: %w", p, err)
	}
	return w.steps, nil
}

// run takes the packet from hook to hook.
func (w *walk) run() (servicetest.Verdict, error) {
	family := service.FamilyOf(w.packet.To)
	hooks := []string{"nat PREROUTING", "filter FORWARD", "nat POSTROUTING"}
	if w.packet.In == "" && w.kernel.isLocal(w.packet.From) {
		hooks = []string{"nat OUTPUT", "filter OUTPUT", "nat POSTROUTING"}
	}
	masquerade := false
	for _, h := range hooks {
		table, chain, _ := strings.Cut(h, " ")
		if chain == "FORWARD" && w.kernel.isLocal(w.dst) {
			chain = "INPUT"
		}
		var err error
		if w.table, err = w.kernel.table(family, table); err != nil {
			return servicetest.Verdict{}, err
		}
		v, err := w.chain(chain)
		switch {
		case err != nil:
			return servicetest.Verdict{}, err
		case v == verdictReject:
			return servicetest.Verdict{Outcome: servicetest.Rejects}, nil
		case v == verdictDrop:
			return servicetest.Verdict{Outcome: servicetest.Drops}, nil
		case v == "MASQUERADE":
			masquerade = true
		}
	}
	switch {
	case w.mark != 0:
		return servicetest.Verdict{}, fmt.Errorf("the mark %#x is still there at the end", w.mark)
	case !w.dnat && masquerade:
		return servicetest.Verdict{}, errors.New("masqueraded, but not translated")
	case !w.dnat:
		return servicetest.Verdict{}, nil
	case w.affinity > 0 && !w.remember:
		return servicetest.Verdict{}, errors.New("nobody remembers the client")
	}
	t := servicetest.Target{Addr: netip.AddrPortFrom(w.dst, w.port), Masquerade: masquerade}
	return servicetest.Verdict{Outcome: servicetest.Forwards, Targets: []servicetest.Target{t}, Affinity: w.affinity}, nil
}

func (k *Kernel) isLocal(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(k.local, a) }

// chain walks through a chain of the table.
func (w *walk) chain(name string) (string, error) {
	for _, r := range w.table[name] {
		if w.steps++; w.steps > 1_000_000 {
			return "", errLost
		}
		if !w.matches(r) {
			continue
		}
		switch {
		case !r.hasTarget:
		case r.target == "RETURN":
			return verdictNone, nil
		case r.target == "MARK":
			w.mark = (w.mark | r.or) ^ r.xor
		case r.target == "DNAT":
			w.dst, w.port, w.dnat = r.to.Addr(), r.to.Port(), true
			w.remember = w.remember || r.recent.set
			return verdictAccept, nil
		case !r.jump:
			return r.target, nil
		default:
			v, err := w.chain(r.target)
			if err != nil || v != verdictNone || r.goTo {
				return v, err
			}
		}
	}
	return verdictNone, nil
}

// matches reports whether a rule is about the packet.
func (w *walk) matches(r rule) bool {
	p := w.packet
	switch {
	case r.src.set && within(r.src.value, p.From) == r.src.not,
		r.dst.set && within(r.dst.value, w.dst) == r.dst.not,
		r.in.set && device(r.in.value, p.In) == r.in.not,
		r.proto != "" && r.proto != strings.ToLower(p.Protocol.String()),
		r.highPort > 0 && (int(w.port) < r.lowPort || int(w.port) > r.highPort),
		r.srcLocal && !w.kernel.isLocal(p.From),
		r.dstLocal && !w.kernel.isLocal(w.dst),
		r.state == "DNAT" && !w.dnat,
		r.mark.set && !w.marked(r.mark.value):
		return false
	}
	if r.recent.name != "" && !r.recent.set {
		w.affinity = time.Duration(r.recent.seconds) * time.Second
		return false // a client that nobody has seen
	}
	if r.probability > 0 {
		return w.choose()
	}
	return true
}

func within(prefix string, a netip.Addr) bool { return netip.MustParsePrefix(prefix).Contains(a) }

// device matches a name as -i does: a packet of the host itself has none.
func device(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return name != "" && strings.HasPrefix(name, prefix)
	}
	return name == pattern
}

func (w *walk) marked(valueMask string) bool {
	value, mask, _ := strings.Cut(valueMask, "/")
	v, err1 := number(value)
	m, err2 := number(mask)
	return errors.Join(err1, err2) == nil && w.mark&m == v
}

// choose is chance: what is not laid down is yes first.
func (w *walk) choose() bool {
	if w.taken == len(w.choices) {
		w.choices = append(w.choices, true)
	}
	w.taken++
	return w.choices[w.taken-1]
}
