package iptablestest_test

import (
	"testing"

	"github.com/podnet/podnet/service/iptables/iptablestest"
)

func TestContract(t *testing.T) { iptablestest.Contract(t, &iptablestest.Kernel{}) }
