package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/leftover"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/nft"
)

// dataplane makes the dataplane of a mode. Nothing is touched.
func (p *proxy) dataplane(mode string) (service.Dataplane, error) {
	mark := uint32(1) << p.config.MasqueradeBit
	switch mode {
	case proxyconfig.NFTables:
		conn, err := nft.Open("") // for as long as the process lives
		if err != nil {
			return nil, err
		}
		return nft.New(conn, nft.Options{MasqueradeMark: mark, Logger: p.log}), nil
	case proxyconfig.IPVS:
		kernel, err := ipvs.Open(ipvs.OpenOptions{SysctlDir: p.config.SysctlDir})
		if err != nil {
			return nil, err
		}
		v := p.config.VirtualServer
		o := ipvs.Options{
			Scheduler: v.Scheduler, StrictARP: v.StrictARP, Adopt: p.config.ReplaceKubeProxy, Leave: leave(), Logger: p.log,
			Timeouts: ipvs.Timeouts{TCP: seconds(v.TCPTimeout), TCPFin: seconds(v.TCPFinTimeout), UDP: seconds(v.UDPTime)},
		}
		if err := o.Validate(); err != nil {
			return nil, err
		}
		return ipvs.New(kernel, o), nil
	case proxyconfig.IPTables:
		return iptables.New(&iptables.Tools{}, iptables.Options{MasqueradeMark: mark}), nil
	}
	return nil, fmt.Errorf("%s: %w", mode, errors.ErrUnsupported)
}

// seconds rounds up: the kernel counts whole ones, and 0 would leave its own.
func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

// leave tells which virtual servers a cleanup leaves to kube-proxy, which serves again.
func leave() func(ipvs.Key) bool {
	kubes := sync.OnceValue(leftover.Virtual)
	return func(k ipvs.Key) bool {
		return k.Mark == 0 && kubes()(leftover.Server{Addr: k.Addr.Addr(), Port: k.Addr.Port(), Protocol: uint8(k.Protocol)})
	}
}
