package main

import (
	"testing"

	"github.com/podnet/podnet/examples/internal/viptest"
)

func TestVIP(t *testing.T) { viptest.Test(t, run) }
