package main

import (
	"context"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/leftover"
)

// cleanupKubeProxy removes what kube-proxy left.
func (p *proxy) cleanupKubeProxy(ctx context.Context) error {
	removed, err := leftover.Remove(ctx)
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
