package main

import (
	"testing"

	"github.com/podnet/podnet/examples/internal/viptest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

func TestVIP(t *testing.T) {
	vmtest.RequireIPVS(t)
	viptest.Test(t, run)
}
