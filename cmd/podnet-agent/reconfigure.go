package main

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
)

// netConfPoll is how often the network configuration is read. Kubernetes takes up to a minute to bring a changed ConfigMap to the node; this adds little.
const netConfPoll = time.Second

// awaitNetConf returns the network configuration once it says something else than o's, or false when ctx ends. One that is faulty or missing is reported
// once, and what is known stays in force.
func (o options) awaitNetConf(ctx context.Context, log *slog.Logger) (netconf.Config, bool) {
	tick := time.NewTicker(netConfPoll)
	defer tick.Stop()
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return netconf.Config{}, false
		case <-tick.C:
		}
		c, err := netconf.Read(o.netConf)
		switch {
		case err != nil && err.Error() != last:
			last = err.Error()
			log.Warn("network configuration cannot be used: the one before stays in force", "path", o.netConf, "err", err)
		case err != nil:
		case reflect.DeepEqual(c, o.net):
			last = ""
		default:
			log.Info("network configuration changed", "path", o.netConf, "backend", c.Backend.Type)
			return c, true
		}
	}
}
