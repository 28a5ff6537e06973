package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test's own program be the hops, as bench's is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "hop" {
		exit(hop(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func TestEveryWayIsMeasured(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-size", "1000000", "-rounds", "1", "-requests", "100", "-idle", "0", "-cover", "builtin", "-least", "0"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"direct", "splice", "AES-GCM", "builtin"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("no row for %s:\n%s", name, out.String())
		}
	}
	if strings.Contains(out.String(), "| 0 |") || strings.Contains(out.String(), "NaN") {
		t.Errorf("a throughput is missing:\n%s", out.String())
	}
}

func TestTooSlow(t *testing.T) {
	err := run(t.Context(), []string{"-size", "1000000", "-rounds", "1", "-requests", "0", "-idle", "0", "-cover", "builtin", "-least", "1000"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "less than 1000.00") {
		t.Errorf("a ratio below the least: %v", err)
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{"-cover", "none"}, {"-size", "0"}, {"-rounds", "0"}, {"-idle", "-1"}, {"-requests", "-1"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// TestSealed proves that the forwarder to compare with does encrypt, keeps
// every byte, and notices a changed one.
func TestSealed(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := dialTCP(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := accepted.(*net.TCPConn)
	defer b.Close()
	want := bytes.Repeat([]byte("to and fro "), 40_000)
	done := make(chan error, 1)
	go func() {
		s := newSealed(a, 0)
		_, err := s.Write(want)
		if err == nil {
			err = s.CloseWrite()
		}
		done <- err
	}()
	got, err := io.ReadAll(newSealed(b, 1))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	go func() {
		s := newSealed(b, 0)
		s.sendTo = s.aead.Seal([]byte{0, 5 + recordTag}, count(&s.out), want[:5], nil)
		s.sendTo[4] ^= 1
		_, err := b.Write(s.sendTo)
		done <- err
	}()
	if _, err := newSealed(a, 1).Read(make([]byte, 10)); err == nil {
		t.Error("a changed record opened")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
