package netns

import (
	"errors"
	"net"
	"os"
	"strconv"
	"testing"
)

func fresh(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_KERNEL") == "1" {
			t.Fatal("needs root to make a network namespace")
		}
		t.Skip("needs root to make a network namespace")
	}
	name := "podnet-test-netns-" + strconv.Itoa(os.Getpid())
	if err := Create(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Delete(name); err != nil {
			t.Error(err)
		}
	})
	return name
}

func interfaces(t *testing.T) int {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestDoStaysOutOfOtherThreads(t *testing.T) {
	name := fresh(t)
	before := interfaces(t)
	for range 50 {
		if err := Do(Path(name), func() error {
			if got := interfaces(t); got != 1 {
				t.Errorf("%d interfaces in a new namespace, want lo only", got)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := interfaces(t); got != before {
			t.Fatalf("%d interfaces outside after Do, want %d: the namespace leaked", got, before)
		}
	}
}

func TestDoReturnsErrorsAndPanics(t *testing.T) {
	name := fresh(t)
	want := errors.New("from fn")
	if err := Do(Path(name), func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do = %v, want %v", err, want)
	}
	if err := Do("/nonexistent/netns", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Do of a missing namespace = %v", err)
	}
	func() {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v, want the panic of fn", r)
			}
		}()
		_ = Do(Path(name), func() error { panic("boom") })
	}()
}

func TestCreateTwiceAndDeleteTwice(t *testing.T) {
	name := fresh(t)
	if err := Create(name); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create = %v, want os.ErrExist", err)
	}
	names, err := List(name)
	if err != nil || len(names) != 1 {
		t.Errorf("List = %v, %v", names, err)
	}
	for range 2 {
		if err := Delete(name); err != nil {
			t.Errorf("Delete = %v", err)
		}
	}
}
