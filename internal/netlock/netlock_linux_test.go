package netlock

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTake(t *testing.T) {
	program := fmt.Sprintf("podnet-test-%d", os.Getpid())
	unlock, err := Take(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(program); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another %s (process %d)", program, os.Getpid())) {
		t.Errorf("a second one: %v", err)
	}
	other, err := Take(program + "-other")
	if err != nil {
		t.Errorf("another program: %v", err)
	} else if err := other(); err != nil {
		t.Error(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := Take(program)
	if err != nil {
		t.Fatalf("after it was let go: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
