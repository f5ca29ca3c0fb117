package ipam

import "math/bits"

// pageBits is how many bits one page holds: 512 bytes of memory each.
const pageBits = 4096

// page is a piece of a bitmap. used counts its bits, so that a full page is skipped in one step.
type page struct {
	words [pageBits / 64]uint64
	used  int
}

// bitmap is a set of numbers below a size that may be as large as 1<<63: only pages with something in them exist.
type bitmap struct {
	size  uint64
	used  uint64
	pages map[uint64]*page
}

func newBitmap(size uint64) bitmap {
	return bitmap{size: size, pages: make(map[uint64]*page)}
}

func (b *bitmap) has(i uint64) bool {
	p := b.pages[i/pageBits]
	return p != nil && p.words[i%pageBits/64]&(1<<(i%64)) != 0
}

// set adds i and says whether it was not there.
func (b *bitmap) set(i uint64) bool {
	p := b.pages[i/pageBits]
	if p == nil {
		p = new(page)
		b.pages[i/pageBits] = p
	}
	w, bit := &p.words[i%pageBits/64], uint64(1)<<(i%64)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	p.used++
	b.used++
	return true
}

// clear removes i and says whether it was there.
func (b *bitmap) clear(i uint64) bool {
	p := b.pages[i/pageBits]
	w, bit := (*uint64)(nil), uint64(1)<<(i%64)
	if p == nil {
		return false
	}
	if w = &p.words[i%pageBits/64]; *w&bit == 0 {
		return false
	}
	*w &^= bit
	p.used--
	b.used--
	if p.used == 0 {
		delete(b.pages, i/pageBits)
	}
	return true
}

// nextClear returns the first number in [from, to) that is not in the set.
func (b *bitmap) nextClear(from, to uint64) (uint64, bool) {
	to = min(to, b.size)
	for i := from; i < to; {
		p := b.pages[i/pageBits]
		if p == nil {
			return i, true
		}
		if p.used < pageBits {
			for w := i % pageBits / 64; w < pageBits/64; w++ {
				free := ^p.words[w]
				if w == i%pageBits/64 {
					free &= ^uint64(0) << (i % 64)
				}
				if free != 0 {
					n := i/pageBits*pageBits + w*64 + uint64(bits.TrailingZeros64(free))
					return n, n < to
				}
			}
		}
		i = (i/pageBits + 1) * pageBits
	}
	return 0, false
}
