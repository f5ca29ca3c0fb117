//go:build !linux

package takeover

import (
	"context"

	"github.com/podnet/podnet/masq"
)

// HostRules is for Linux.
type HostRules struct {
	*masq.Netfilter
}

// ForwardDrops is for Linux.
func (h HostRules) ForwardDrops(context.Context, masq.Family) (bool, error) { return false, nil }
