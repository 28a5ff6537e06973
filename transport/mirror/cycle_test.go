package mirror

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"busel/internal/cover"
	"busel/internal/nginxtest"
	"busel/internal/wire"
	"busel/obfs/look"
	"busel/obfs/records"
	"busel/transport"
)

// lengths are those of the records in b.
func lengths(b []byte) (out []int) {
	for len(b) >= headerLen {
		n := int(binary.BigEndian.Uint16(b[3:]))
		if len(b) < headerLen+n {
			break
		}
		out = append(out, n)
		b = b[headerLen+n:]
	}
	return out
}

// bulk is the part of l from its first full record on, less the last ones: a
// body's end depends on its size to the byte.
func bulk(l []int) []int {
	i := slices.Index(l, maxRecord)
	if i < 0 {
		return nil
	}
	return l[i : len(l)-4]
}

// builtinSite is the cover that relays bring along.
func builtinSite(t *testing.T) *site {
	t.Helper()
	cert, leaf := certificate(t, coverName)
	s, err := cover.New(cover.Config{Name: coverName, Certificate: cert, Seed: [32]byte{3}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := transport.System{}.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &site{addr: ln.Addr().String(), name: coverName, leaf: sha256.Sum256(leaf.Raw)}
}

// browse downloads path from s over h2, and returns the lengths of the server's
// records in the path.
func browse(t *testing.T, s *site, path string) []int {
	t.Helper()
	in := newStage(t, s.addr)
	tr := &http.Transport{ForceAttemptHTTP2: true, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: s.roots, ServerName: s.name, InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr}).Get("https://" + in.addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if n, err := io.Copy(io.Discard, r.Body); err != nil || r.ProtoMajor != 2 {
		t.Fatalf("%d bytes of HTTP/%d: %v", n, r.ProtoMajor, err)
	}
	_, down := in.passed()
	return lengths(down)
}

// download moves size bytes of a stream in full frames from one end to the other
// of a carrier through a stage, and returns the lengths of the records that way.
func download(t *testing.T, r *relay, size int, up bool) []int {
	t.Helper()
	return downloadAs(t, r, size, up, nil)
}

// downloadAs is download with a look.
func downloadAs(t *testing.T, r *relay, size int, up bool, l func() *look.Look) []int {
	t.Helper()
	in := newStage(t, r.addr)
	carriers, _ := r.answer(t, okAccept())
	client, _, err := r.dialer(t, func(c *DialerConfig) { c.Look = l }).Dial(testContext(t), routeTo(in.addr), testHello())
	if err != nil {
		t.Fatal(err)
	}
	server := <-carriers
	t.Cleanup(func() { client.Close(); server.Close() })
	send(t, client, server, 1)
	from, to := server, client
	if up {
		from, to = client, server
	}
	const data = wire.MaxFrame - 16 // as the session's chunks have
	done := make(chan error, 1)
	go func() {
		var batch []transport.Frame
		for at := 0; at < size; at += data {
			n := min(data, size-at)
			f := wire.Frame{Type: wire.Stream, ID: 2, Offset: uint64(at), Data: pattern(at, n)}
			batch = append(batch, transport.Frame{Lane: 2, Data: f.Append(nil)})
			if len(batch) == 4 || at+n == size {
				if err := from.WriteFrames(batch); err != nil {
					done <- err
					return
				}
				batch = batch[:0]
			}
		}
		done <- nil
	}()
	buf := make([]byte, 32<<10)
	for got := 0; got < size; {
		n, err := to.ReadFrames(buf)
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) > 0; {
			var f wire.Frame
			n, err := wire.Parse(b, &f)
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
			if f.Type != wire.Stream {
				continue
			}
			if f.Offset != uint64(got) || string(f.Data) != string(pattern(got, len(f.Data))) {
				t.Fatalf("%d bytes at %d, want them at %d, or they are damaged", len(f.Data), f.Offset, got)
			}
			got += len(f.Data)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	sent, received := in.passed()
	if up {
		return lengths(sent)
	}
	return lengths(received)
}

// pattern is the bytes of a stream at an offset.
func pattern(at, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((at + i) * (at + i) >> 9)
	}
	return b
}

// TestBulkIsCutAsTheCoverDoes compares a download over a carrier with one of the
// same size from the bare cover, record by record, both recorded in the path.
func TestBulkIsCutAsTheCoverDoes(t *testing.T) {
	const size = largeFile
	for _, tt := range []struct {
		name string
		site func(t *testing.T) *site
		want records.Cycle
	}{
		{"nginx with small pages", func(t *testing.T) *site {
			return nginxSite(t, nginxtest.Config{Large: size})
		}, records.NginxHTTP2()},
		{"nginx with a picture", func(t *testing.T) *site {
			s := nginxtest.Run(t, nginxtest.Config{Large: size})
			page := []byte(`<!DOCTYPE html><title>A heron</title><img src="/heron.png"><p>`)
			if err := os.Rename(filepath.Join(s.Dir, "html", "large.bin"), filepath.Join(s.Dir, "html", "heron.png")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("heron.png", filepath.Join(s.Dir, "html", "large.bin")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.Dir, "html", "index.html"), page, 0o600); err != nil {
				t.Fatal(err)
			}
			return &site{addr: s.Address, name: s.Name, roots: s.Roots}
		}, records.NginxHTTP2()},
		{"Go", func(t *testing.T) *site { return goSite(t, nil) }, records.GoHTTP2()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.site(t)
			cycle, err := LearnCycle(testContext(t), nil, Cover{Address: s.addr, Name: s.name})
			if err != nil || cycle != tt.want {
				t.Fatalf("learned %+v, %v, want %+v", cycle, err, tt.want)
			}
			r := startRelay(t, s, nil)
			r.SetCoverCycle(cycle)
			want := bulk(browse(t, s, "/large.bin"))
			got := bulk(download(t, r, size, false))
			// The covert body has 24 bytes of its own in each record.
			n := min(len(got), len(want))
			if n < size/maxRecord {
				t.Fatalf("%d and %d records are not a bulk", len(got), len(want))
			}
			if i := differs(got[:n], want[:n]); i >= 0 {
				t.Errorf("record %d: carrier %v, site %v", i, got[i:min(i+8, n)], want[i:min(i+8, n)])
			}
		})
	}
}

// differs is the first index at which a and b do, but for the short record of a
// body's first block: there a response's header is, whose length is the file's.
func differs(a, b []int) int {
	first := slices.IndexFunc(a, func(n int) bool { return n != maxRecord })
	for i := range a {
		if a[i] != b[i] && (i != first || a[i] > 512 || b[i] > 512) {
			return i
		}
	}
	return -1
}

// What relays bring along is known by its pictures.
func TestLearnBuiltin(t *testing.T) {
	s := builtinSite(t)
	cycle, err := LearnCycle(testContext(t), nil, Cover{Address: s.addr, Name: s.name})
	if err != nil || cycle != records.GoHTTP2() {
		t.Fatalf("learned %+v, %v", cycle, err)
	}
}

func TestLearnHTTP1(t *testing.T) {
	s := nginxSite(t, nginxtest.Config{NoHTTP2: true})
	cycle, err := LearnCycle(testContext(t), nil, Cover{Address: s.addr, Name: s.name})
	if err != nil || cycle != (records.Cycle{}) {
		t.Fatalf("learned %+v, %v", cycle, err)
	}
}

// TestUploadOfFirefox: its uploads have the record lengths that were measured.
func TestUploadOfFirefox(t *testing.T) {
	l := shippedLook(t, "firefox")
	got := downloadAs(t, startRelay(t, goSite(t, nil), nil), 300_000, true, func() *look.Look { return l })
	want := []int{1640, 16026, 14746, 1322, 16026, 15498} // then what was written at once ends
	i := slices.Index(got, want[0])
	if i < 0 || len(got) < i+len(want) || !slices.Equal(got[i:i+len(want)], want) {
		t.Fatalf("records of %v, Firefox has %v", got, want)
	}
	again := 0
	for _, n := range got[i:] {
		if n > 16026 {
			t.Errorf("a record of %d bytes", n)
		}
		if n == want[0] {
			again++
		}
	}
	if again != 1 {
		t.Errorf("the body began %d times: %v", again, got)
	}
}

// TestUpload: Chromium's uploads are full records and the rest.
func TestUpload(t *testing.T) {
	const size = 1_000_000
	got := bulk(download(t, startRelay(t, goSite(t, nil), nil), size, true))
	if len(got) < size/maxRecord-4 {
		t.Fatalf("%d records", len(got))
	}
	for i, n := range got {
		if n != maxRecord {
			t.Fatalf("record %d has %d bytes", i, n)
		}
	}
}
