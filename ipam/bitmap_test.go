package ipam

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestBitmapAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []uint64{1, 63, 64, 65, pageBits, pageBits + 1, 3*pageBits + 7} {
		b, want := newBitmap(size), make(map[uint64]bool)
		for range 20000 {
			i := r.Uint64N(size)
			if r.IntN(3) > 0 {
				if b.set(i) == want[i] {
					t.Fatalf("set %d of %d", i, size)
				}
				want[i] = true
			} else {
				if b.clear(i) != want[i] {
					t.Fatalf("clear %d of %d", i, size)
				}
				delete(want, i)
			}
		}
		if b.used != uint64(len(want)) {
			t.Errorf("%d used, want %d", b.used, len(want))
		}
		for from := range size {
			free, ok := b.nextClear(from, size)
			n := from
			for n < size && want[n] {
				n++
			}
			if ok != (n < size) || ok && free != n || b.has(from) != want[from] {
				t.Fatalf("next clear from %d of %d: %d, %v, want %d", from, size, free, ok, n)
			}
		}
		for i := range want {
			b.clear(i)
		}
		if len(b.pages) != 0 {
			t.Errorf("%d pages of an empty bitmap", len(b.pages))
		}
	}
}

func TestU128AgainstBig(t *testing.T) {
	toBig := func(u u128) *big.Int {
		b := new(big.Int).SetUint64(u.hi)
		return b.Or(b.Lsh(b, 64), new(big.Int).SetUint64(u.lo))
	}
	mod := new(big.Int).Lsh(big.NewInt(1), 128)
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		a, b, n, s := u128{r.Uint64(), r.Uint64()}, u128{r.Uint64(), r.Uint64()}, r.Uint64(), r.IntN(128)
		x := toBig(a)
		for name, c := range map[string]struct {
			got  u128
			want *big.Int
		}{
			"add": {a.add(n), new(big.Int).Add(x, new(big.Int).SetUint64(n))},
			"sub": {a.sub(b), new(big.Int).Sub(x, toBig(b))},
			"shl": {a.shl(s), new(big.Int).Lsh(x, uint(s))},
			"shr": {a.shr(s), new(big.Int).Rsh(x, uint(s))},
		} {
			if c.want.Mod(c.want, mod).Cmp(toBig(c.got)) != 0 {
				t.Fatalf("%s: %+v (%d, %d)", name, a, n, s)
			}
		}
	}
	if a := netip.MustParseAddr("fd00::1"); toU128(a).addr(false) != a {
		t.Error("IPv6 address there and back")
	}
}
