package session

import "slices"

// maxRanges bounds an idSet. Ids that never come (a dial that failed, a
// datagram that was lost) leave gaps; the oldest gap is closed when there are
// too many, as if its ids had been used.
const maxRanges = 256

// idSet is a set of numbers that are used about in ascending order and never
// twice, kept as a watermark and the ranges above it.
type idSet struct {
	ranges [][2]uint64 // [from, to), ascending, apart
}

func (s *idSet) has(n uint64) bool {
	i, ok := slices.BinarySearchFunc(s.ranges, n, func(r [2]uint64, n uint64) int {
		switch {
		case r[1] <= n:
			return -1
		case r[0] > n:
			return 1
		}
		return 0
	})
	return ok && i < len(s.ranges)
}

// add reports whether n was not in the set before.
func (s *idSet) add(n uint64) bool {
	if s.has(n) {
		return false
	}
	i, _ := slices.BinarySearchFunc(s.ranges, n, func(r [2]uint64, n uint64) int {
		if r[0] < n {
			return -1
		}
		return 1
	})
	before := i > 0 && s.ranges[i-1][1] == n
	after := i < len(s.ranges) && s.ranges[i][0] == n+1
	switch {
	case before && after:
		s.ranges[i-1][1] = s.ranges[i][1]
		s.ranges = slices.Delete(s.ranges, i, i+1)
	case before:
		s.ranges[i-1][1] = n + 1
	case after:
		s.ranges[i][0] = n
	default:
		s.ranges = slices.Insert(s.ranges, i, [2]uint64{n, n + 1})
	}
	if len(s.ranges) > maxRanges {
		s.ranges[1][0] = s.ranges[0][0]
		s.ranges = slices.Delete(s.ranges, 0, 1)
	}
	return true
}
