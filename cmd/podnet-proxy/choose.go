package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
)

// choice is a dataplane that works here.
type choice struct {
	mode      string
	dataplane service.Dataplane
}

// modes are the dataplanes in the order in which auto tries them. nftables is the fastest, ipvs has the schedulers, iptables works on old kernels.
func modes() []string { return []string{proxyconfig.NFTables, proxyconfig.IPVS, proxyconfig.IPTables} }

// choose makes the dataplane of the mode, or the first that works, and logs why.
func (p *proxy) choose(ctx context.Context) (choice, error) {
	mode := p.config.Mode
	if mode != proxyconfig.Auto {
		d, err := p.try(ctx, mode)
		if err != nil {
			return choice{}, fmt.Errorf("mode %s: %w", mode, err)
		}
		return choice{mode, d}, nil
	}
	var lacking []string
	var faults []error
	for _, m := range modes() {
		d, err := p.try(ctx, m)
		if err != nil {
			lacking = append(lacking, fmt.Sprintf("%s does not work here (%v)", m, err))
			faults = append(faults, fmt.Errorf("mode %s: %w", m, err))
			continue
		}
		why := "it works here and is the fastest"
		if len(lacking) > 0 {
			why = strings.Join(lacking, ", ")
		}
		p.log.Info("mode auto", "chosen", m, "because", why)
		return choice{m, d}, nil
	}
	return choice{}, fmt.Errorf("mode auto: no dataplane works here: %w", errors.Join(faults...))
}

// try makes a dataplane and has it read its kernel, which says what is lacking. Nothing is written.
func (p *proxy) try(ctx context.Context, mode string) (service.Dataplane, error) {
	d, err := p.dataplane(mode)
	if err != nil {
		return nil, err
	}
	if _, err := d.Observe(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// cleanupModes removes what the dataplanes left, but for one.
func (p *proxy) cleanupModes(ctx context.Context, but string) error {
	var faults []error
	for _, m := range modes() {
		if m == but {
			continue
		}
		d, err := p.dataplane(m)
		if err == nil {
			err = d.Cleanup(ctx)
		}
		if absent(err) { // what cannot work here has left nothing here
			p.log.Debug("clean up", "mode", m, "nothing", err)
		} else if err != nil {
			faults = append(faults, fmt.Errorf("mode %s: %w", m, err))
		}
	}
	return errors.Join(faults...)
}

// absent reports whether an error says that the kernel or a program lacks what a dataplane needs.
func absent(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, exec.ErrNotFound) || errors.Is(err, ipvs.ErrNoIPVS)
}

// families are those that this host has: IPv6 may be off.
func families() []service.Family {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		return []service.Family{service.IPv4}
	}
	if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6"); err == nil && strings.TrimSpace(string(off)) == "1" {
		return []service.Family{service.IPv4}
	}
	return []service.Family{service.IPv4, service.IPv6}
}
