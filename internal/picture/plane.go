package picture

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"slices"
)

// Sizes in pixels at which a picture is searched. The first is where nearly all
// codes are read: an invite's code of 73 modules and margin that fills a quarter
// of it has 7 pixels a module. The second finds small codes in large pictures,
// the third those in noisy and blurred ones, whose pixels say more together.
const (
	usualPixels = 1 << 20
	mostPixels  = 4 << 20
	fewPixels   = 1 << 18
)

// minModules is the side of the smallest code (ISO/IEC 18004, section 5.3.1).
const minModules = 21

// margin is the width in pixels of what is put around a picture, for codes that
// reach its edge: more than the 5 blocks of 8 pixels that gozxing's binarizer
// takes together have on one side.
const margin = 24

// plane is a picture in grey.
type plane struct {
	w, h int
	pix  []byte // w*h luminances
}

// newPlane makes the picture grey, on white where it is transparent, and scales
// it down to at most mostPixels.
func newPlane(ctx context.Context, img image.Image) (*plane, error) {
	b := img.Bounds()
	n := factor(b.Dx(), b.Dy(), mostPixels)
	row := luminance(img)
	line := make([]byte, b.Dx())
	p, add := reducer(b.Dx(), b.Dy(), n)
	for y := range p.h * n {
		if y%64 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("picture: %w", context.Cause(ctx))
		}
		row(b.Min.Y+y, line)
		add(line)
	}
	return p, nil
}

// factor is by how much each side has to be divided so that at most that many
// pixels are left.
func factor(w, h, pixels int) int {
	return max(1, int(math.Ceil(math.Sqrt(float64(w)*float64(h)/float64(pixels)))))
}

// reducer returns a plane that is n times smaller, and the function that adds
// the rows of the larger one to it: each pixel is the mean of n by n.
func reducer(w, h, n int) (*plane, func(row []byte)) {
	p := &plane{w: w / n, h: h / n}
	p.pix = make([]byte, 0, p.w*p.h)
	sums, rows := make([]uint32, p.w), 0
	return p, func(row []byte) {
		for x := range sums {
			for _, v := range row[x*n : (x+1)*n] {
				sums[x] += uint32(v)
			}
		}
		if rows++; rows < n {
			return
		}
		for _, sum := range sums {
			p.pix = append(p.pix, byte(sum/uint32(n*n)))
		}
		clear(sums)
		rows = 0
	}
}

// luminance returns the function that writes the luminances of row y.
func luminance(img image.Image) func(y int, row []byte) {
	b := img.Bounds()
	switch img := img.(type) {
	case *image.Gray:
		return func(y int, row []byte) { copy(row, img.Pix[img.PixOffset(b.Min.X, y):]) }
	case *image.YCbCr:
		return func(y int, row []byte) { copy(row, img.Y[img.YOffset(b.Min.X, y):]) }
	case *image.Paletted:
		var table [256]byte
		for i, c := range img.Palette {
			table[i] = overWhite(c)
		}
		return func(y int, row []byte) {
			for x, v := range img.Pix[img.PixOffset(b.Min.X, y):][:len(row)] {
				row[x] = table[v]
			}
		}
	}
	strip := image.NewRGBA(image.Rect(0, 0, b.Dx(), 1))
	return func(y int, row []byte) {
		draw.Draw(strip, strip.Rect, image.White, image.Point{}, draw.Src)
		draw.Draw(strip, strip.Rect, img, image.Pt(b.Min.X, y), draw.Over)
		for x := range row {
			row[x] = grey(strip.Pix[4*x], strip.Pix[4*x+1], strip.Pix[4*x+2])
		}
	}
}

// grey is Y' of JFIF.
func grey(r, g, b byte) byte {
	return byte((19595*uint32(r) + 38470*uint32(g) + 7471*uint32(b) + 1<<15) >> 16)
}

func overWhite(c color.Color) byte {
	r, g, b, a := c.RGBA()
	white := 0xffff - a
	return grey(byte((r+white)>>8), byte((g+white)>>8), byte((b+white)>>8))
}

// reduced is p, n times smaller.
func (p *plane) reduced(n int) *plane {
	if n == 1 {
		return p
	}
	small, add := reducer(p.w, p.h, n)
	for y := range small.h * n {
		add(p.pix[y*p.w:][:p.w])
	}
	return small
}

// doubled is p, twice as large in each direction: the binarizer wants more
// pixels a module than a small screenshot has.
func (p *plane) doubled() *plane {
	d := &plane{w: 2 * p.w, h: 2 * p.h, pix: make([]byte, 0, 4*len(p.pix))}
	at := func(x, y int) int { return int(p.pix[min(y, p.h-1)*p.w+min(x, p.w-1)]) }
	for y := range d.h {
		for x := range d.w {
			// Between pixels stands their mean.
			i, j := x/2, y/2
			d.pix = append(d.pix, byte((at(i, j)+at(i+x%2, j)+at(i, j+y%2)+at(i+x%2, j+y%2))/4))
		}
	}
	return d
}

// scales are the sizes at which to search, the likeliest first.
func (p *plane) scales() []*plane {
	usual := factor(p.w, p.h, usualPixels)
	all := []*plane{p.reduced(usual)}
	if usual > 1 {
		all = append(all, p)
	}
	if few := factor(p.w, p.h, fewPixels); few > usual {
		all = append(all, p.reduced(few))
	}
	if 4*len(p.pix) <= mostPixels {
		all = append(all, p.doubled())
	}
	return slices.DeleteFunc(all, func(p *plane) bool {
		// Nothing is in what is smaller than the smallest code's modules; and the
		// margin around a very long strip would be larger than any picture.
		return min(p.w, p.h) < minModules || (p.w+2*margin)*(p.h+2*margin) > mostPixels+mostPixels/4
	})
}

// stretched is p with its darkest pixels black and its lightest white, the
// thousandth part at either end apart: what is pale on pale is read then, too.
func (p *plane) stretched() *plane {
	var count [256]int
	for _, v := range p.pix {
		count[v]++
	}
	few := len(p.pix) / 1000
	low, high := 0, 255
	for sum := count[low]; sum <= few && low < 255; sum += count[low] {
		low++
	}
	for sum := count[high]; sum <= few && high > 0; sum += count[high] {
		high--
	}
	if high <= low {
		return p
	}
	var table [256]byte
	for v := range table {
		table[v] = byte(min(max((v-low)*255/(high-low), 0), 255))
	}
	s := &plane{w: p.w, h: p.h, pix: make([]byte, len(p.pix))}
	for i, v := range p.pix {
		s.pix[i] = table[v]
	}
	return s
}

// framed is p, or its negative, with white around it.
func (p *plane) framed(inverted bool) *plane {
	f := &plane{w: p.w + 2*margin, h: p.h + 2*margin}
	f.pix = make([]byte, f.w*f.h)
	for i := range f.pix {
		f.pix[i] = 0xff
	}
	for y := range p.h {
		row := f.pix[(y+margin)*f.w+margin:][:p.w]
		copy(row, p.pix[y*p.w:])
		if inverted {
			for x := range row {
				row[x] = ^row[x]
			}
		}
	}
	return f
}
