package picture

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"busel/config"
	"busel/internal/flow"
)

// deadline is how long one picture may take in tests: far more than it does, so
// that a busy machine with the race detector does not fail. The benchmark has
// the real figures.
const deadline = time.Minute

// bundle is an invite of that many bytes, of as few relays as have them.
func bundle(t testing.TB, bytes int) *config.Bundle {
	t.Helper()
	relay := func(i, cover int) config.RelayEntry {
		return config.RelayEntry{
			Addresses:  []flow.Addr{{IP: netip.AddrFrom4([4]byte{198, 51, 100, 7}), Port: 443}},
			Key:        [32]byte{1, 2, 3},
			CoverName:  strings.Repeat("n.", cover/2) + strings.Repeat("m", 1+cover%2),
			CertHash:   [32]byte{4, 5, 6, byte(i)},
			Transports: []config.Transport{{Name: "mirror"}},
		}
	}
	for count := 1; ; count++ {
		relays := make([]config.RelayEntry, count)
		rest := 0
		for {
			for i := range relays {
				relays[i] = relay(i, min(max(rest-i*200, 0), 200))
			}
			b, err := config.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), 1, relays...)
			if err != nil {
				t.Fatal(err)
			}
			n := len(b.Append(nil))
			if n == bytes {
				return b
			}
			if rest > 0 || n > bytes {
				break
			}
			rest = bytes - n
		}
	}
}

// largest is an invite of 16 frames.
func largest(t testing.TB) *config.Bundle {
	t.Helper()
	host := strings.Repeat(strings.Repeat("a", 61)+".", 4) + "abcde"
	var relays []config.RelayEntry
	for i := range config.MaxRelays {
		e := config.RelayEntry{Name: strings.Repeat("n", config.MaxName), Key: [32]byte{byte(i)}, CoverName: host, CertHash: [32]byte{1}}
		for j := range config.MaxAddresses {
			e.Addresses = append(e.Addresses, flow.Addr{Name: host, Port: uint16(443 + j)})
			e.Transports = append(e.Transports, config.Transport{Name: "mirror-" + string(rune('a'+j)), Options: strings.Repeat("~", config.MaxOptions)})
		}
		relays = append(relays, e)
	}
	b, err := config.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), 1, relays...)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(b.Codes()); n != config.MaxFrames {
		t.Fatalf("%d frames", n)
	}
	return b
}

// drawn is the picture that client share -png writes.
func drawn(t testing.TB, b *config.Bundle) []byte {
	t.Helper()
	data, err := config.QRPNG(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// scene is how a picture comes about: a code on a sheet, seen by a camera or
// shown on a screen.
type scene struct {
	module      float64 // pixels a module; 0: 8
	margin      int     // modules around the code
	turn        float64 // degrees
	tilt        float64 // how much smaller the far edge is: 0.3 is 30%
	w, h        int     // pixels of the picture; 0: just around the code
	dark, light color.RGBA
	mirrored    bool
	shadow      float64 // how much light the darkest corner lacks, 0..1
	noise       int     // amplitude
	blur        int     // radius in pixels
	clutter     bool    // content around the code, as on a screen
}

// render draws the codes of the picture that data are, which has 8 pixels a
// module and a margin of 4, as a scene.
func render(t testing.TB, data []byte, s scene) *image.RGBA {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	source := img.(*image.Paletted)
	if s.module == 0 {
		s.module = 8
	}
	if s.light == s.dark {
		s.light, s.dark = color.RGBA{255, 255, 255, 255}, color.RGBA{0, 0, 0, 255}
	}
	cut := (4 - s.margin) * 8 // of the source's margin
	sw, sh := float64(source.Rect.Dx()-2*cut), float64(source.Rect.Dy()-2*cut)
	scale := s.module / 8
	sin, cos := math.Sincos(s.turn * math.Pi / 180)
	if s.w == 0 {
		s.w = int(math.Ceil(scale * (math.Abs(sw*cos) + math.Abs(sh*sin))))
		s.h = int(math.Ceil(scale * (math.Abs(sw*sin) + math.Abs(sh*cos))))
	}
	random := rand.New(rand.NewPCG(5, 6))
	out := image.NewRGBA(image.Rect(0, 0, s.w, s.h))
	if s.clutter {
		for y := range s.h {
			for x := range s.w {
				out.SetRGBA(x, y, s.light)
			}
		}
		for range 400 {
			x, y := random.IntN(s.w), random.IntN(s.h)
			c := color.RGBA{uint8(random.Uint32()), uint8(random.Uint32()), uint8(random.Uint32()), 255}
			for i := range random.IntN(40) {
				for j := range random.IntN(160) {
					out.SetRGBA(x+j, y+i, c)
				}
			}
		}
	}
	sub := 3 // samples in each direction
	if s.module >= 8 || s.noise > 0 {
		sub = 1
	}
	for y := range s.h {
		for x := range s.w {
			black, inside := 0, 0
			for i := range sub * sub {
				// From the picture's middle, back through tilt and turn.
				px := float64(x) + (float64(i%sub)+0.5)/float64(sub) - float64(s.w)/2
				py := float64(y) + (float64(i/sub)+0.5)/float64(sub) - float64(s.h)/2
				depth := 1 + s.tilt*py/(scale*sh)
				px, py = px*depth, py*depth
				u := (px*cos+py*sin)/scale + sw/2
				v := (py*cos-px*sin)/scale + sh/2
				if s.mirrored {
					u = sw - u
				}
				if u < 0 || v < 0 || u >= sw || v >= sh {
					continue
				}
				inside++
				if source.ColorIndexAt(int(u)+cut, int(v)+cut) == 1 {
					black++
				}
			}
			if inside == 0 && s.clutter {
				continue
			}
			mix := func(dark, light uint8) uint8 {
				v := (float64(dark)*float64(black) + float64(light)*float64(sub*sub-black)) / float64(sub*sub)
				v *= 1 - s.shadow*float64(x+y)/float64(s.w+s.h)
				if s.noise > 0 {
					v += float64(random.IntN(2*s.noise+1) - s.noise)
				}
				return uint8(min(max(v, 0), 255))
			}
			out.SetRGBA(x, y, color.RGBA{mix(s.dark.R, s.light.R), mix(s.dark.G, s.light.G), mix(s.dark.B, s.light.B), 255})
		}
	}
	if s.blur > 0 {
		out = blurred(out, s.blur)
	}
	return out
}

func blurred(img *image.RGBA, radius int) *image.RGBA {
	out := image.NewRGBA(img.Rect)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			var sum [3]int
			n := 0
			for j := max(0, y-radius); j <= min(img.Rect.Dy()-1, y+radius); j++ {
				for i := max(0, x-radius); i <= min(img.Rect.Dx()-1, x+radius); i++ {
					c := img.RGBAAt(i, j)
					sum[0], sum[1], sum[2] = sum[0]+int(c.R), sum[1]+int(c.G), sum[2]+int(c.B)
					n++
				}
			}
			out.SetRGBA(x, y, color.RGBA{uint8(sum[0] / n), uint8(sum[1] / n), uint8(sum[2] / n), 255})
		}
	}
	return out
}

func asPNG(t testing.TB, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asJPEG(t testing.TB, img image.Image, quality int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise is 36 megapixels of nothing but noise.
func noise() *image.Gray {
	img := image.NewGray(image.Rect(0, 0, 6000, 6000))
	rand.NewChaCha8([32]byte{7}).Read(img.Pix)
	return img
}

// bitNoise is noise in black and white, a bit a pixel.
func bitNoise() *image.Paletted {
	img := noise()
	for i := range img.Pix {
		img.Pix[i] &= 1
	}
	return &image.Paletted{Pix: img.Pix, Stride: img.Stride, Rect: img.Rect, Palette: color.Palette{color.White, color.Black}}
}

func transparent(img *image.RGBA) *image.NRGBA {
	out := image.NewNRGBA(img.Rect)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			out.SetNRGBA(x, y, color.NRGBA{0, 0, 0, 255 - img.RGBAAt(x, y).R})
		}
	}
	return out
}

// exhibit is one picture that a resident may come with.
type exhibit struct {
	name string
	data []byte
	want *config.Bundle // nil: an error
	err  error
}

func gallery(t testing.TB) []exhibit {
	usual, full, long, most := bundle(t, 259), bundle(t, 300), bundle(t, 620), largest(t)
	code, fullCode := drawn(t, usual), drawn(t, full)
	all := []exhibit{{"as it is drawn", code, usual, nil}}
	show := func(name string, s scene, quality int) {
		data, want := code, usual
		if strings.Contains(name, "300 bytes") {
			data, want = fullCode, full
		}
		img := render(t, data, s)
		if quality == 0 {
			data = asPNG(t, img)
		} else {
			data = asJPEG(t, img, quality)
		}
		all = append(all, exhibit{name, data, want, nil})
	}
	show("without margin", scene{module: 6}, 0)
	show("margin of one module", scene{module: 4, margin: 1}, 90)
	show("JPEG quality 30", scene{module: 5, margin: 4}, 30)
	show("JPEG quality 30, small", scene{module: 4, margin: 2, w: 640, h: 480}, 30)
	show("white on black", scene{margin: 4, dark: color.RGBA{255, 255, 255, 255}, light: color.RGBA{0, 0, 0, 255}}, 0)
	show("dark mode", scene{module: 5, margin: 4, w: 1080, h: 1920, dark: color.RGBA{225, 225, 230, 255}, light: color.RGBA{24, 34, 45, 255}}, 80)
	show("colours", scene{module: 5, margin: 4, dark: color.RGBA{20, 40, 160, 255}, light: color.RGBA{255, 240, 150, 255}}, 70)
	show("low contrast", scene{module: 5, margin: 4, dark: color.RGBA{110, 110, 110, 255}, light: color.RGBA{160, 160, 160, 255}}, 80)
	show("a quarter turn", scene{module: 5, margin: 4, turn: 90}, 60)
	show("upside down", scene{module: 5, margin: 4, turn: 180}, 60)
	show("three quarter turns", scene{module: 5, margin: 4, turn: 270}, 60)
	show("turned by 7 degrees", scene{module: 5, margin: 4, turn: 7}, 60)
	show("turned by 33 degrees", scene{module: 6, margin: 4, turn: 33}, 60)
	show("mirrored", scene{module: 5, margin: 4, mirrored: true}, 60)
	show("screen with content around", scene{module: 5, margin: 4, w: 1080, h: 2400, clutter: true}, 0)
	show("cropped screen, small margin", scene{module: 4, margin: 2, w: 500, h: 520, clutter: true}, 40)
	show("2 pixels a module", scene{module: 2, margin: 4}, 0)
	show("3.3 pixels a module", scene{module: 3.3, margin: 4, w: 800, h: 600}, 50)
	show("slant, 300 bytes", scene{module: 7.5, margin: 4, tilt: 0.25, turn: 5, w: 900, h: 900}, 70)
	if !race {
		show("photo, 300 bytes", scene{module: 18, margin: 4, tilt: 0.2, turn: 12, w: 4000, h: 3000, shadow: 0.5, noise: 25, blur: 1}, 75)
		show("small in a photo", scene{module: 6, margin: 4, turn: 4, w: 4000, h: 3000, noise: 10}, 75)
	}
	show("blurred", scene{module: 8, margin: 4, blur: 3, noise: 10}, 60)
	all = append(all, exhibit{"transparent", asPNG(t, transparent(render(t, code, scene{margin: 4}))), usual, nil},
		exhibit{"3 frames", drawn(t, long), long, nil},
		exhibit{"3 frames on a screen", asJPEG(t, render(t, drawn(t, long), scene{module: 5, margin: 4, w: 1200, h: 1600, clutter: true}), 50), long, nil},
		exhibit{"16 frames", drawn(t, most), most, nil},
		exhibit{"16 frames, as a messenger scales them down", asJPEG(t, render(t, drawn(t, most), scene{module: 1280. / 308, margin: 4}), 80), most, nil})

	if !race {
		all = append(all,
			exhibit{"noise, JPEG", asJPEG(t, noise(), 30), nil, ErrNoCode},
			exhibit{"noise, JPEG of high quality", asJPEG(t, noise(), 75), nil, ErrNoCode},
			exhibit{"noise, PNG of one bit", asPNG(t, bitNoise()), nil, ErrNoCode},
		)
	}
	foreign := drawnText(t, "https://example.org/secret")
	all = append(all,
		exhibit{"white", asPNG(t, image.NewGray(image.Rect(0, 0, 500, 500))), nil, ErrNoCode},
		exhibit{"a pixel", asPNG(t, image.NewGray(image.Rect(0, 0, 1, 1))), nil, ErrNoCode},
		exhibit{"a line", asPNG(t, image.NewGray(image.Rect(0, 0, 1<<20, 1))), nil, ErrNoCode},
		exhibit{"foreign", foreign, nil, config.ErrForeign},
		exhibit{"half of a code", asPNG(t, render(t, code, scene{margin: 4}).SubImage(image.Rect(0, 0, 300, 600))), nil, ErrNoCode},
		exhibit{"cut short", code[:len(code)/2], nil, ErrDamaged},
		exhibit{"only the beginning", code[:20], nil, ErrDamaged},
		exhibit{"too many pixels", vast(t), nil, ErrTooLarge},
		exhibit{"too many bytes", append(code, make([]byte, MaxFile)...), nil, ErrTooLarge},
		exhibit{"GIF", []byte("GIF89a\x01\x00\x01\x00"), nil, ErrFormat},
		exhibit{"WebP", []byte("RIFF\x24\x00\x00\x00WEBPVP8 "), nil, ErrFormat},
		exhibit{"HEIC", []byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00"), nil, ErrFormat},
		exhibit{"nothing", nil, nil, ErrFormat},
	)
	return all
}

// vast is a PNG whose header says 100,000 by 100,000 pixels.
func vast(t testing.TB) []byte {
	data := asPNG(t, image.NewGray(image.Rect(0, 0, 1, 1)))
	// PNG, section 11.2.2: signature(8) length(4) "IHDR" width(4) height(4) 5 more, CRC.
	binary.BigEndian.PutUint32(data[16:], 100_000)
	binary.BigEndian.PutUint32(data[20:], 100_000)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	return data
}

// drawnText is a QR code of a text that is no invite.
func drawnText(t testing.TB, text string) []byte {
	t.Helper()
	matrix, err := qrcode.NewQRCodeWriter().Encode(text, gozxing.BarcodeFormat_QR_CODE, 400, 400, nil)
	if err != nil {
		t.Fatal(err)
	}
	return asPNG(t, matrix)
}

func TestGallery(t *testing.T) {
	for _, e := range gallery(t) {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		start := time.Now()
		texts, err := Read(ctx, e.data)
		t.Logf("%-45s %6.0f ms, %d kB, %d texts", e.name, time.Since(start).Seconds()*1000, len(e.data)>>10, len(texts))
		cancel()
		if e.want == nil {
			if !errors.Is(err, e.err) {
				t.Errorf("%s: got %v, want %v", e.name, err, e.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		got, err := config.ParseText(strings.Join(texts, "\n"))
		if err != nil || !got.Equal(e.want) {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

// manyScans is a progressive JPEG of 36 megapixels that goes over them again and again and
// says each time, in 40 bytes, that there is nothing.
func manyScans(scans int) []byte {
	b := []byte("\xff\xd8\xff\xdb\x00\x43\x00" + strings.Repeat("\x01", 64))
	b = append(b, "\xff\xc2\x00\x0b\x08\x17\x70\x17\x70\x01\x01\x11\x00"...)                                                               // 6000 by 6000, grey
	b = append(b, "\xff\xc4\x00\x14\x10\x01"+strings.Repeat("\x00", 15)+"\xe0"...)                                                         // one code, of one bit: EOB14
	scan := "\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00" + strings.Repeat("\x55\x54\xaa\xa9\x55\x52\xaa\xa5\x55\x4a\xaa\x95\x55\x2a\xaa", 3) // 0, then 14 bits: 27306 blocks
	return append(append(b, strings.Repeat(scan, scans)...), "\xff\xd9"...)
}

// A picture that takes hours is not begun.
func TestManyScans(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	begin := time.Now()
	if _, err := Read(ctx, manyScans(20_000)); !errors.Is(err, ErrDamaged) {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	if n := bytes.Count(manyScans(maxScans), startOfScan); n != maxScans {
		t.Errorf("%d scans", n)
	}
}
