package main

import (
	"context"
	"net/netip"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/leftover"
	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
)

// cleanupKubeProxy removes what kube-proxy left, but for the IPVS virtual servers to keep.
func (p *proxy) cleanupKubeProxy(ctx context.Context, keep func(leftover.Server) bool) error {
	removed, err := leftover.Remove(ctx, keep)
	for _, r := range removed {
		p.log.Info("removed of kube-proxy", "object", r)
	}
	return err
}

// warnOfKubeProxy tells of kube-proxy's rules: both proxies would serve the same Services, and whose rule comes first is chance.
func (p *proxy) warnOfKubeProxy(ctx context.Context) {
	for _, f := range leftover.Find(ctx) {
		p.log.Warn("kube-proxy runs here, or has left something: podnet-proxy --cleanup-kube-proxy removes it, or --replace-kube-proxy as soon as all Services are served", "object", f)
	}
}

// taken returns which virtual servers of kube-proxy are ours after the first sync, in mode ipvs: they were taken over with their connections.
func (w *wiring) taken(r service.Report) func(leftover.Server) bool {
	if w.mode != proxyconfig.IPVS {
		return nil
	}
	ours := map[leftover.Server]bool{} // NodePorts without an address; only those with affinity are at one, the others at a mark
	for _, c := range r.Changes {
		for _, p := range c.After.Ports {
			for _, f := range p.Frontends {
				if f.Kind != service.NodePort || p.Affinity > 0 {
					ours[leftover.Server{Addr: f.Addr, Port: f.Port, Protocol: uint8(p.Protocol)}] = true
				}
			}
		}
	}
	return func(s leftover.Server) bool {
		if ours[s] {
			return true
		}
		s.Addr = netip.Addr{}
		return ours[s]
	}
}
