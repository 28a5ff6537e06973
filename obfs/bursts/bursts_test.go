package bursts

import (
	"math"
	"math/rand/v2"
	"testing"
)

// model is a row of the package comment's table, with the bound of nDPI and its least first burst.
type model struct {
	mean, deviation [4]float64
	bound           float64
	least           int
}

var models = []model{
	{[4]float64{213, 4515, 108, 308}, [4]float64{58, 1292, 36, 132}, 3.5, 0},
	{[4]float64{641, 4649, 448, 1094}, [4]float64{180, 1201, 987, 3403}, 3, 517},
	{[4]float64{1850, 4903, 785, 1051}, [4]float64{386, 1331, 1287, 3144}, 3, 0},
}

func (m *model) finds(window [4]int) bool {
	sum := 0.0
	for i, n := range window {
		d := (float64(n) - m.mean[i]) / m.deviation[i]
		sum += d * d
	}
	return window[0] >= m.least && math.Sqrt(sum) < m.bound
}

// seen is what the observer counts of a burst in packets of so many bytes.
func seen(burst, packet int) int { return burst - 24*((burst+packet-1)/packet) }

var draws = []func(int) int{func(int) int { return 0 }, func(n int) int { return n / 2 }, func(n int) int { return n - 1 }}

// TestFirst: whatever a burst has, with what is filled in no model but that of TLS 1.2 takes it for
// a first one, whatever follows; nothing is filled in twice.
func TestFirst(t *testing.T) {
	for _, heard := range []int{0, 300, 4515, 30000} {
		for burst := range 5000 {
			for _, draw := range draws {
				more := Fill(heard, burst, draw)
				if more < 0 || more == 1 || more > 0 && Fill(heard, burst+more, draw) != 0 {
					t.Fatalf("after %d: %d bytes are filled with %d, and then with %d", heard, burst, more, Fill(heard, burst+more, draw))
				}
				if burst <= mostFirst && more > Small {
					t.Errorf("%d bytes are filled with %d", burst, more)
				}
				for _, packet := range []int{700, 1208, 1448} {
					first := seen(burst+more, packet)
					for i := range models[1:] {
						m := &models[1+i]
						if m.finds([4]int{first, int(m.mean[1]), int(m.mean[2]), int(m.mean[3])}) {
							t.Fatalf("%d bytes and %d in packets of %d are the first burst of model %d", burst, more, packet, 1+i)
						}
					}
				}
			}
		}
	}
}

// TestThird: after whatever went before it, a burst with what is filled in is not taken for the
// third one of TLS 1.2, also if the observer saw the relay's end say half as much, or double.
func TestThird(t *testing.T) {
	m := &models[0]
	for said := 0; said < 600; said += 10 {
		for heard := 10; heard < 20000; heard += 10 + heard/20 {
			for burst := 20; burst < 600; burst += 7 {
				for _, draw := range draws {
					third := seen(burst+Fill(heard, burst, draw), 1448)
					for _, flight := range []int{heard / 2, heard, 2 * heard} {
						if m.finds([4]int{seen(said, 1448), seen(flight, 1448), third, int(m.mean[3])}) {
							t.Fatalf("after %d and %d, seen as %d, %d bytes are filled to %d", said, heard, flight, burst, third)
						}
					}
				}
			}
		}
	}
	if more := Fill(30000, 170, draws[2]); more != 0 {
		t.Errorf("after 30,000 bytes %d are filled in for nothing", more)
	}
}

// exchange draws what one program says through a tunnel, in bursts, the client's first.
func exchange(r *rand.Rand) (sizes []int) {
	between := func(a, b int) int { return a + r.IntN(b-a+1) }
	flight := between(2200, 6500)
	switch r.IntN(6) {
	case 0: // TLS 1.3
		sizes = []int{between(517, 720), flight, 80 + between(60, 900), between(150, 20000)}
	case 1: // Chromium's
		sizes = []int{between(1700, 2150), flight, 80 + between(60, 900), between(150, 20000)}
	case 2: // TLS 1.2
		sizes = []int{between(160, 600), flight, between(80, 140), between(51, 320), between(80, 700), between(150, 20000)}
	case 3: // resumed
		sizes = []int{between(517, 900), between(180, 340), 80 + between(60, 900), between(150, 20000)}
	case 4: // plain HTTP
		sizes = []int{between(70, 500), between(200, 40000)}
	case 5: // messages
		sizes = []int{between(60, 400), between(40, 3000)}
	}
	for range r.IntN(4) {
		sizes = append(sizes, between(40, 700), between(60, 20000))
	}
	for i := range sizes { // records and frames
		sizes[i] += between(40, 90)
	}
	return sizes
}

// TestHandshakes: of connections that carry one to three programs most are found as they are,
// and none is when bursts are filled.
func TestHandshakes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const flows = 3000
	var found [2]int
	for range flows {
		plain := []int{31, 3613, 78, 109, 45, 36} // how a connection of ours begins
		for range 1 + r.IntN(3) {
			plain = append(plain, exchange(r)...)
		}
		filled := append([]int(nil), plain...)
		for i := 2; i < len(filled); i += 2 {
			filled[i] += Fill(filled[i-1], filled[i], r.IntN)
		}
		for k, sizes := range [][]int{plain, filled} {
			hit := false
			for i := 0; i+4 <= len(sizes); i += 2 {
				for m := range models {
					hit = hit || models[m].finds([4]int{seen(sizes[i], 1448), seen(sizes[i+1], 1448), seen(sizes[i+2], 1448), seen(sizes[i+3], 1448)})
				}
			}
			if hit {
				found[k]++
			}
		}
	}
	if found[0] < flows/2 || found[1] > 0 {
		t.Errorf("%d of %d are found as they are, and %d when filled", found[0], flows, found[1])
	}
}

// TestSpread: filled bursts are of many lengths.
func TestSpread(t *testing.T) {
	for burst, least := range map[int]int{100: 100, 1000: 800} {
		if spread := Fill(4515, burst, draws[2]) - Fill(4515, burst, draws[0]); spread < least {
			t.Errorf("%d bytes are filled to within %d bytes of the least, want %d", burst, spread, least)
		}
	}
}
