package cover

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
)

// rgb is a colour with room for arithmetic, 0..255 a channel.
type rgb struct{ r, g, b float64 }

func (c rgb) mix(d rgb, t float64) rgb {
	return rgb{c.r + (d.r-c.r)*t, c.g + (d.g-c.g)*t, c.b + (d.b-c.b)*t}
}

// hsl converts hue (turns), saturation and lightness (0..1).
func hsl(h, s, l float64) rgb {
	f := func(n float64) float64 {
		k := math.Mod(n+h*12, 12)
		return 255 * (l - s*min(l, 1-l)*max(-1, min(k-3, 9-k, 1)))
	}
	h -= math.Floor(h)
	return rgb{f(0), f(8), f(4)}
}

func (c rgb) css() string {
	return fmt.Sprintf("#%02x%02x%02x", clamp(c.r), clamp(c.g), clamp(c.b))
}

func clamp(v float64) uint8 { return uint8(max(0, min(255, v+0.5))) }

// ridge is a line of hills: fractal noise over x, in pixels from the top.
type ridge struct {
	base, height, scale float64
	knots               []float64
	rough               float64
}

func (r *ridge) at(x float64) float64 {
	v, amplitude, frequency := 0.0, 1.0, 1/r.scale
	for octave := range 6 {
		t := x*frequency + float64(octave)*17.3
		i := int(math.Floor(t))
		f := t - float64(i)
		f = f * f * (3 - 2*f)
		n := len(r.knots)
		a, b := r.knots[((i%n)+n)%n], r.knots[(((i+1)%n)+n)%n]
		v += amplitude * (a + (b-a)*f)
		amplitude *= r.rough
		frequency *= 2.1
	}
	return r.base - v*r.height
}

// landscape paints hills in haze, perhaps with a low sun and a lake, and
// returns a JPEG. It is what a small site would show at the top of its page;
// the grain gives it the size of a photograph.
func landscape(rng *rand.Rand, width, height int) ([]byte, error) {
	w, h := float64(width), float64(height)
	hue := []float64{0.56, 0.08, 0.6, 0.48, 0.95, 0.13}[rng.IntN(6)] + rng.Float64()*0.05
	top := hsl(hue+0.04, 0.25+rng.Float64()*0.3, 0.45+rng.Float64()*0.25)
	low := hsl(hue-0.06+rng.Float64()*0.12, 0.35+rng.Float64()*0.3, 0.8+rng.Float64()*0.1)
	near := hsl(0.25+rng.Float64()*0.3, 0.15+rng.Float64()*0.2, 0.1+rng.Float64()*0.1)
	sunX, sunY, sunR := w*(0.15+0.7*rng.Float64()), h*(0.2+0.25*rng.Float64()), h*(0.04+0.03*rng.Float64())
	sun := rng.IntN(3) > 0
	shore := h * 2
	if rng.IntN(2) == 0 {
		shore = h * (0.72 + 0.08*rng.Float64())
	}
	ridges := make([]ridge, 4+rng.IntN(3))
	for i := range ridges {
		depth := float64(i) / float64(len(ridges)-1) // 0 far, 1 near
		ridges[i] = ridge{
			base:   h * (0.5 + 0.42*depth),
			height: h * (0.2 - 0.08*depth),
			scale:  w * (0.32 - 0.12*depth),
			rough:  0.38 + 0.1*rng.Float64(),
			knots:  make([]float64, 64),
		}
		for k := range ridges[i].knots {
			ridges[i].knots[k] = rng.Float64()
		}
		if shore < h && ridges[i].base > shore {
			ridges[i].base = shore + h*0.01
			ridges[i].height *= 0.7
		}
	}
	woods := make([]float64, 512) // heights of tree tops on the nearest ridge
	for i := range woods {
		woods[i] = rng.Float64()
	}

	// The upper edge of every ridge for every column, trees included.
	lines := make([][]float64, len(ridges))
	for i := range ridges {
		lines[i] = make([]float64, width)
		depth := float64(i+1) / float64(len(ridges))
		for px := range width {
			x := float64(px)
			lines[i][px] = ridges[i].at(x)
			if depth > 0.7 {
				step := 5 + 6*depth
				across := math.Abs(math.Mod(x, step)/step-0.5) * 2
				lines[i][px] -= h * 0.03 * depth * woods[(int(x/step)*7+i*31)%len(woods)] * (1 - across)
			}
		}
	}

	paint := func(x, y float64) rgb {
		column := max(0, min(width-1, int(x)))
		c := top.mix(low, math.Pow(min(1, y/(h*0.62)), 0.8))
		if sun {
			d := math.Hypot(x-sunX, y-sunY)
			c = c.mix(rgb{255, 246, 225}, 0.75*math.Exp(-d/(sunR*4)))
			if d < sunR {
				c = rgb{255, 250, 238}
			}
		}
		for i := range ridges {
			line := lines[i][column]
			depth := float64(i+1) / float64(len(ridges))
			if y < line {
				continue
			}
			body := low.mix(near, 0.15+0.85*depth*depth)
			mist := math.Exp(-(y - line) / (h * 0.12))
			c = low.mix(body, 0.35+0.65*(0.4+0.6*mist)).mix(body, depth*0.8)
		}
		return c
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for py := range height {
		for px := range width {
			x, y := float64(px), float64(py)
			var c rgb
			if y > shore {
				depth := (y - shore) / (h - shore)
				ripple := math.Sin(y*0.9+math.Sin(x*0.013)*3) * (0.5 + 3*depth)
				c = paint(x+ripple, max(0, shore-(y-shore)*1.6)).mix(near, 0.12+0.25*depth)
			} else {
				c = paint(x, y)
			}
			grain := (rng.Float64() - 0.5) * 9
			edge := 1 - 0.22*math.Pow(math.Hypot(x/w-0.5, y/h-0.5)/0.7, 2)
			img.SetRGBA(px, py, color.RGBA{clamp(c.r*edge + grain), clamp(c.g*edge + grain), clamp(c.b*edge + grain), 255})
		}
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 80 + rng.IntN(9)})
	return b.Bytes(), err
}

// favicon draws a mark of two overlapping discs and packs it as an ICO with
// one 32x32 PNG inside, which every browser since 2010 reads.
func favicon(rng *rand.Rand, ink, paper rgb) ([]byte, error) {
	const size = 32
	img := image.NewNRGBA(image.Rect(0, 0, size, size))
	tilt := rng.Float64() * 2 * math.Pi
	gap := 4 + rng.Float64()*4
	ax, ay := 16+gap*math.Cos(tilt), 16+gap*math.Sin(tilt)
	bx, by := 16-gap*math.Cos(tilt), 16-gap*math.Sin(tilt)
	for y := range size {
		for x := range size {
			fx, fy := float64(x)+0.5, float64(y)+0.5
			a := max(0, min(1, 9.5-math.Hypot(fx-ax, fy-ay)))
			b := max(0, min(1, 9.5-math.Hypot(fx-bx, fy-by)))
			c := ink.mix(paper, 0.55*b)
			img.SetNRGBA(x, y, color.NRGBA{clamp(c.r), clamp(c.g), clamp(c.b), clamp(255 * max(a, b))})
		}
	}
	var picture bytes.Buffer
	if err := png.Encode(&picture, img); err != nil {
		return nil, err
	}
	// ICONDIR and one ICONDIRENTRY, little-endian.
	ico := []byte{0, 0, 1, 0, 1, 0, size, size, 0, 0, 1, 0, 32, 0}
	ico = binary.LittleEndian.AppendUint32(ico, uint32(picture.Len()))
	ico = binary.LittleEndian.AppendUint32(ico, 22)
	return append(ico, picture.Bytes()...), nil
}
