package nfnltest

import (
	"errors"
	"net/netip"

	"github.com/podnet/podnet/internal/nfnl"
)

// Step is a packet on its way through one hook, for a walk with somebody between the hooks: IPVS takes packets in the middle of input and output.
type Step struct {
	Packet

	// Original is the destination that the connection's first packet had, by conntrack's original tuple; zero: Packet.To.
	Original netip.AddrPort

	// Least and Most are the priorities of the chains that it goes through: from Least to below Most. Both 0: all.
	Least, Most int32

	// NoNAT says that chains of type nat do not see it: the connection was translated, or decided not to be, before.
	NoNAT bool
}

// Hook sends a packet through the base chains of a hook. Chains in which chance decides are an error.
func (k *Kernel) Hook(h nfnl.Hook, s Step) (Result, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := walker{k: k, p: s.Packet, original: s.Original, least: s.Least, most: s.Most, decided: s.NoNAT}
	w.result = Result{To: s.To, Mark: s.Mark}
	err := w.hook(h)
	if err == nil && w.asked > 0 {
		err = errors.New("numgen in a walk of single hooks")
	}
	return w.result, err
}
