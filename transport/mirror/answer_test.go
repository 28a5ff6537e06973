package mirror

import (
	"encoding/binary"
	"testing"
	"time"

	"busel/internal/nginxtest"
)

// lengths are those of the records that came down, from their headers.
func (s *stage) lengths() (all []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := s.down; len(b) >= headerLen; {
		n := int(binary.BigEndian.Uint16(b[3:]))
		all = append(all, n)
		b = b[min(len(b), headerLen+n):]
	}
	return all
}

// TestLearnAnswer: a reply is as long as the cover's answer to a browser, on any date.
func TestLearnAnswer(t *testing.T) {
	for name, s := range map[string]func(t *testing.T) *site{
		"nginx":    func(t *testing.T) *site { return nginxSite(t, nginxtest.Config{}) },
		"go":       func(t *testing.T) *site { return goSite(t, nil) },
		"built-in": builtinSite,
	} {
		t.Run(name, func(t *testing.T) {
			s := s(t)
			a, err := LearnAnswer(testContext(t), nil, Cover{Address: s.addr, Name: s.name})
			if err != nil || a.date == "" || a.size < 500 || a.size > maxAnswer {
				t.Fatalf("%+v, %v", a, err)
			}
			then, err := time.Parse(time.RFC1123, a.date)
			if err != nil {
				t.Fatal(err)
			}
			if n := a.Size(then); n != a.size {
				t.Errorf("%d bytes on the same date, not %d", n, a.size)
			}
			sizes := map[int]bool{}
			for i := range 100 {
				sizes[a.Size(then.Add(time.Duration(i)*7777*time.Second))] = true
			}
			if len(sizes) < 2 {
				t.Error("answers are of one length on all dates")
			}
			r := startRelay(t, s, nil)
			r.SetCoverAnswer(a)
			in := newStage(t, r.addr)
			pin := s.leaf
			d := r.dialer(t, func(c *DialerConfig) { c.Roots, c.CertHash = nil, &pin })
			r.pairOver(t, d, routeTo(in.addr))
			until(t, "a reply of that length", func() bool {
				for _, n := range in.lengths() {
					for i := -6; i <= 6; i++ { // the seconds have passed on
						if n == a.Size(time.Now())+i {
							return true
						}
					}
				}
				return false
			})
		})
	}
	s := nginxSite(t, nginxtest.Config{NoHTTP2: true})
	if a, err := LearnAnswer(testContext(t), nil, Cover{Address: s.addr, Name: s.name}); err != nil || a != (Answer{}) {
		t.Errorf("HTTP/1.1: %+v, %v", a, err)
	}
	for range 1000 {
		if n := (Answer{}).Size(time.Now()); n < replyMin || n >= replyMax {
			t.Fatalf("%d bytes", n)
		}
	}
}
