package main

import (
	"errors"
	"fmt"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/iptables"
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
	case proxyconfig.IPTables:
		return iptables.New(&iptables.Tools{}, iptables.Options{MasqueradeMark: mark}), nil
	}
	return nil, fmt.Errorf("%s: %w", mode, errors.ErrUnsupported)
}
