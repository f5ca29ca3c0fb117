package main

import (
	"errors"
	"fmt"

	"github.com/podnet/podnet/service"
)

// dataplane makes the dataplane of a mode. Nothing is touched.
func (p *proxy) dataplane(mode string) (service.Dataplane, error) {
	return nil, fmt.Errorf("%s: %w", mode, errors.ErrUnsupported)
}
