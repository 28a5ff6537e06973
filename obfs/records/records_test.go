package records

import (
	"reflect"
	"slices"
	"testing"
)

// body is what a cutter makes of n pending bytes that come at once, each record
// taking 24 bytes of its own.
func body(c *Cutter, n int) (lengths []int) {
	const own = 24
	for {
		pending := 0
		if n > 0 {
			pending = n + own
		}
		size := c.Next(pending)
		if size == 0 {
			return lengths
		}
		c.Sent(size)
		lengths = append(lengths, size)
		n = max(0, n-(size-own))
	}
}

// The expected lengths are those of real servers, in the same order
// (docs/PROTOCOL.md, section 3.3).
func TestCutter(t *testing.T) {
	const full, taken = 16401, 16377
	for _, tt := range []struct {
		name  string
		cycle Cycle
		first int // records that passed before
		sizes []int
		want  []int
	}{
		{"Firefox's upload", FirefoxUpload(), 9, []int{300_000},
			[]int{1640, 16026, 14746, 1322, 16026, 15498, 570, 16026, 16026, 42, 234, 16026, 15834, 986, 16026, 15082, 1738, 16026, 14330}},
		{"nginx, HTTP/2", NginxHTTP2(), 9, []int{6 * taken},
			[]int{full, full, 180, full, full, 53, full, taken - 156 - 29 + 24}},
		{"a small answer", NginxHTTP2(), 3, []int{439}, []int{463}},
		{"two small answers", GoHTTP2(), 3, []int{400, 500}, []int{424, 524}},
		{"bodies begin anew", NginxHTTP2(), 3, []int{2*taken + 156, 900, 2*taken + 156}, []int{full, full, 180, 924, full, full, 180}},
		{"a body after an answer within a block", NginxHTTP2(), 0, []int{taken, 900, taken, taken}, []int{full, 924, full, full, 180}},
		{"Go", GoHTTP2(), 20, []int{44 + 2*taken + 2 + 1000}, []int{68, full, 26, full, 26, 1022, 26}},
		{"Go, a whole block at the end", GoHTTP2(), 20, []int{44 + taken}, []int{68, full, 26}},
		{"nearly full", NginxHTTP2(), 3, []int{taken - 7, taken - 7, 30, taken - 65}, []int{full, full, 180, 54, full - 65}},
		{"full records only", Cycle{}, 0, []int{2*taken + 100}, []int{full, full, 124}},
		// A frame of 16,393 bytes in the growing records of a young connection.
		{"Go, growing", GoHTTP2(), 6, []int{30000}, []int{68, 9505, 6922, 11877, 1748, 26}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.cycle.Begin()
			for range tt.first {
				c.Passed()
			}
			var got []int
			for _, n := range tt.sizes {
				got = append(got, body(&c, n)...)
			}
			if !slices.Equal(got[:min(len(got), len(tt.want))], tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
		})
	}
}

// A frame that cannot be split, as a datagram, may be longer than what is left of
// a growing record. Whatever remains of the block then, no record is due that is
// shorter than any covert one.
func TestLongFrames(t *testing.T) {
	for last := range 40 {
		c := GoHTTP2().Begin()
		for _, size := range []int{c.Next(9000), 10000, 16393 - 10000 + 20 - last + Overhead} {
			c.Sent(size)
		}
		if due := c.Next(0); due != 0 && due < 26 {
			t.Errorf("%d bytes less: a record of %d bytes is due", last, due)
		}
	}
}

func repeat(n int, block ...int) (out []int) {
	for range n {
		out = append(out, block...)
	}
	return out
}

func join(parts ...[]int) []int { return slices.Concat(parts...) }

func TestLearn(t *testing.T) {
	const full = 16401
	for _, tt := range []struct {
		name    string
		lengths []int
		want    Cycle
		ok      bool
	}{
		{"nothing", nil, Cycle{}, false},
		{"small pages", []int{266, 266, 193, 628, 439}, Cycle{}, false},
		{"nginx, HTTP/2", join([]int{266, 266, 179, 439, full, full, 180}, repeat(5, full, full, 53), []int{full, 1772}), NginxHTTP2(), true},
		{"nginx, header before", join([]int{266, 266, 193}, repeat(5, full, full, 53), []int{full, 1772, 628}), NginxHTTP2(), true},
		{"nginx, HTTP/1.1", join([]int{266, 266, 661}, repeat(100, full), []int{1998}), Cycle{}, true},
		{"Go", join([]int{139, 56, 39, 82, 4761, 5947, 5736, 8319, 8108, 10691, 5736, 13063, 3364, 15435, 992}, repeat(4, full, 26), []int{1754, 26, 31}), GoHTTP2(), true},
		{"Go, pictures of two bodies", join([]int{56, 39, 82, 4761, 5947, 5736, 8319, 8108, 10691, 5736, 13063, 3364, 15435, 992}, repeat(3, full, 26), []int{1754, 26}, []int{68}, repeat(3, full, 26), []int{900, 26}), GoHTTP2(), true},
		{"13 bytes beyond 2^14 are possible, and cost little", repeat(5, full, 30), Cycle{Block: 16384 + 13}, true},
		{"changing", []int{full, 500, full, 600, full, 700, full, 800, full, 900}, Cycle{}, false},
		{"wasteful", repeat(6, full, 16000), Cycle{}, false},
		{"a proxy's buffers of 64 KiB", repeat(5, full, full, full, full, 89), Cycle{Block: 65536 + 72}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Learn(tt.lengths)
			if ok != tt.ok || ok && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v %v, want %+v %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// FuzzLearn: whatever a server sends, what is learned from it is sane, and a
// cutter that follows it makes progress with lengths that a record can have.
func FuzzLearn(f *testing.F) {
	f.Add([]byte{64, 17, 64, 17, 0, 53, 64, 17, 64, 17, 0, 53, 64, 17, 64, 17, 0, 53, 64, 17}, uint32(200000))
	f.Add([]byte{0, 56, 0, 39, 0, 82, 18, 153, 64, 17, 0, 26, 64, 17, 0, 26, 64, 17, 0, 26}, uint32(70000))
	f.Fuzz(func(t *testing.T, b []byte, n uint32) {
		var lengths []int
		for ; len(b) >= 2; b = b[2:] {
			lengths = append(lengths, int(b[0])<<8|int(b[1]))
		}
		cycle, ok := Learn(lengths)
		if !ok {
			return
		}
		if !cycle.Sane() {
			t.Fatalf("learned %+v", cycle)
		}
		size := int(n % (8 << 20))
		c := cycle.Begin()
		out := body(&c, size)
		total := 0
		for _, l := range out {
			if l < 26 || l > 16401 {
				t.Fatalf("record of %d bytes", l)
			}
			total += l - 24
		}
		if total < size || size > 1<<20 && total > size+size/8 {
			t.Fatalf("%d bytes became %d", size, total)
		}
	})
}
