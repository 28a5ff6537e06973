package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// serve runs a server until the test ends and waits for its end.
func serve(t *testing.T, path string, h Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	s := &Server{Handler: h}
	go func() { ended <- s.Serve(ctx, path, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
}

func echo(_ context.Context, r Request) (any, error) {
	switch r.Op {
	case "echo":
		return r.Args, nil
	case "fail":
		return nil, errors.New("the reason why")
	case "huge":
		return strings.Repeat("x", MaxResponse), nil
	case "nothing":
		return nil, nil
	}
	return nil, errors.New("unknown request " + r.Op)
}

func TestCall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx := context.Background()
	if err := Call(ctx, path, "echo", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before the start: %v", err)
	}
	serve(t, path, echo)
	type message struct{ Text string }
	want := message{strings.Repeat("line\n\"", 5000)}
	var got message
	if err := Call(ctx, path, "echo", want, &got); err != nil || got != want {
		t.Errorf("echo: %v", err)
	}
	if err := Call(ctx, path, "nothing", nil, nil); err != nil {
		t.Error(err)
	}
	err := Call(ctx, path, "fail", nil, nil)
	if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Text != "the reason why" {
		t.Errorf("fail: %v", err)
	}
	err = Call(ctx, path, "huge", nil, nil)
	if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Text != ErrTooLarge.Error() {
		t.Errorf("huge: %v", err)
	}
	if err := Call(ctx, path, "echo", strings.Repeat("x", MaxRequest), nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a huge request: %v", err)
	}
	if info, err := os.Stat(path); runtime.GOOS != "windows" && (err != nil || info.Mode().Perm() != 0o600) {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestManyCalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	serve(t, path, echo)
	var calls sync.WaitGroup
	for i := range 4 * MaxConns {
		calls.Go(func() {
			var got int
			if err := Call(context.Background(), path, "echo", i, &got); err != nil || got != i {
				t.Errorf("call %d: %d, %v", i, got, err)
			}
		})
	}
	calls.Wait()
}

func TestBrokenRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	serve(t, path, echo)
	for _, request := range []string{
		"", "{", "null garbage", "[]\n", `{"op": 3}` + "\n", strings.Repeat("[", 70000),
		`{"op":"` + strings.Repeat("x", 2*MaxRequest) + `"}`,
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		// The server may have had enough before all is written.
		_, _ = conn.Write([]byte(request))
		_ = conn.(*net.UnixConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		conn.Close()
		var resp response
		if len(answer) > 0 && (json.Unmarshal(answer, &resp) != nil || resp.Error == "") {
			t.Errorf("%.20q: got %.100q", request, answer)
		}
	}
	if err := Call(context.Background(), path, "nothing", nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close() // as a crash leaves it
	if err := Call(context.Background(), path, "echo", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
	serve(t, path, echo)
	if err := Call(context.Background(), path, "nothing", nil, nil); err != nil {
		t.Error(err)
	}
	// A live one is not taken over.
	if err := (&Server{Handler: echo}).Serve(context.Background(), path, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	if err := Call(context.Background(), path, "nothing", nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestFileInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Server{Handler: echo}).Serve(context.Background(), path, nil); err == nil {
		t.Error("served")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	if runtime.GOOS != "linux" {
		err := (&Server{Handler: echo}).Serve(context.Background(), path, nil)
		if err == nil || !strings.Contains(err.Error(), "-dir") {
			t.Errorf("got %v", err)
		}
		return
	}
	serve(t, path, echo)
	if err := Call(context.Background(), path, "nothing", nil, nil); err != nil {
		t.Error(err)
	}
}

// TestEndWhileBusy ends a server whose handler waits for its context and whose
// other connection says nothing.
func TestEndWhileBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready, entered, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	s := &Server{Handler: func(ctx context.Context, _ Request) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	go func() { ended <- s.Serve(ctx, path, func() { close(ready) }) }()
	<-ready
	silent, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	called := make(chan error, 1)
	go func() { called <- Call(context.Background(), path, "wait", nil, nil) }()
	<-entered
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-called; err == nil {
		t.Error("a call that was cut off succeeded")
	}
}

func TestCallEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	entered := make(chan struct{})
	serve(t, path, func(ctx context.Context, _ Request) (any, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-entered; cancel() }()
	if err := Call(ctx, path, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzReadJSON demands that a request that is read is written to one that is
// read to the same.
func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`{"op":"status","args":{"a":[1,null]}}` + "\n"))
	f.Add([]byte(`{"op":""}{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if readJSON(bytes.NewReader(data), MaxRequest, &r) != nil {
			return
		}
		var text bytes.Buffer
		if err := writeJSON(&text, 1<<30, r); err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := readJSON(&text, 1<<30, &again); err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(r)
		b, _ := json.Marshal(again)
		if !bytes.Equal(a, b) {
			t.Fatalf("%s became %s", a, b)
		}
	})
}

// What a handler wants done after its answer may end the server: the answer is out
// by then.
func TestThen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	s := &Server{Handler: func(context.Context, Request) (any, error) {
		return Then{Result: "done", Do: cancel}, nil
	}}
	go func() { ended <- s.Serve(ctx, path, func() { close(ready) }) }()
	<-ready
	var got string
	if err := Call(t.Context(), path, "end", nil, &got); err != nil || got != "done" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
