// Package control lets a program's other commands talk to the one that runs:
// `client status`, list and share to `client run`, `relayd status` and revoke to
// `relayd run`.
//
// The running program listens on a Unix socket of mode 0600 in its directory,
// which is of mode 0700 itself; Windows has had such sockets since Windows 10
// 1803, where the user's profile guards them. Whoever can connect may ask: no
// further secret is needed, and none is answered to anybody else.
//
// A connection carries one request and one response, each a line of JSON:
//
//	request  = {"op": "status", "args": ...}
//	response = {"result": ...} or {"error": "what is wrong"}
//
// Both are bounded in size and time, and so is the number of connections.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Bounds. A status of many hundred carriers and paths stays far below.
const (
	MaxRequest  = 64 << 10 // bytes; an invite in text form fits many times
	MaxResponse = 4 << 20  // bytes
	// Timeout bounds one exchange: a person waits for it. The longest is that a passphrase
	// is changed, of about three seconds, and many more on an old phone.
	Timeout = 60 * time.Second
	// MaxConns is how many exchanges run at a time; more wait in the kernel.
	MaxConns = 16
)

var (
	// ErrNotRunning means that no program listens on the socket.
	ErrNotRunning = errors.New("not running")
	// ErrInUse means that another program listens on the socket.
	ErrInUse = errors.New("another program answers on the control socket")
	// ErrTooLarge means that a request or response is beyond its bound.
	ErrTooLarge = errors.New("message too large")
)

// RemoteError is an error that the running program answered.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// Request is what a command asks.
type Request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Handler answers one request with what becomes JSON, or with an error whose
// text the user reads. Several run at a time; ctx ends with the exchange.
type Handler func(ctx context.Context, r Request) (any, error)

// Then is a result of a [Handler] with something to do once it was written, whether
// or not that went well.
type Then struct {
	Result any
	Do     func()
}

// Server answers requests.
type Server struct {
	Handler Handler
	// Log, nil for none, is told at Debug of exchanges that fail.
	Log *slog.Logger
}

// Serve answers on the socket at path, of which it makes and removes the file,
// until ctx ends; then it returns nil once all handlers have returned. A socket
// file that nobody answers on is taken over; the error wraps [ErrInUse] if
// somebody does. ready, if not nil, is called once requests are accepted.
func (s *Server) Serve(ctx context.Context, path string, ready func()) error {
	listener, release, err := listen(ctx, path)
	if err != nil {
		return err
	}
	defer release()
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	defer listener.Close()
	if ready != nil {
		ready()
	}

	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, MaxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("control socket: %w", err)
		}
		running.Go(func() {
			defer func() { <-slots }()
			if err := s.exchange(ctx, conn); err != nil {
				log.Debug("control exchange failed", "err", err)
			}
		})
	}
}

// exchange answers the one request of conn and closes it.
func (s *Server) exchange(ctx context.Context, conn net.Conn) (err error) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var req Request
	if err := readJSON(conn, MaxRequest, &req); err != nil {
		return writeJSON(conn, MaxResponse, response{Error: "request: " + err.Error()})
	}
	result, err := s.Handler(ctx, req)
	if then, ok := result.(Then); ok && err == nil {
		result = then.Result
		defer then.Do()
	}
	var resp response
	if err == nil {
		resp.Result, err = json.Marshal(result)
	}
	if err == nil && len(resp.Result) > MaxResponse-1024 {
		err = ErrTooLarge
	}
	if err != nil {
		resp = response{Error: err.Error()}
	}
	return writeJSON(conn, MaxResponse, resp)
}

// Call asks the program that serves the socket at path and decodes its answer
// into result, unless that is nil. args become JSON; nil sends none. The error
// wraps [ErrNotRunning] if there is no such program, and is *[RemoteError] if
// the program answered with an error.
func Call(ctx context.Context, path, op string, args, result any) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	req := Request{Op: op}
	if args != nil {
		raw, err := json.Marshal(args)
		if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		req.Args = raw
	}
	conn, err := dial(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var resp response
	err = writeJSON(conn, MaxRequest, req)
	if err == nil {
		err = readJSON(conn, MaxResponse, &resp)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the running program does not answer: %w", ctx.Err())
	case err != nil:
		return err
	case resp.Error != "":
		return &RemoteError{Text: resp.Error}
	case result == nil:
		return nil
	}
	return json.Unmarshal(resp.Result, result)
}

// readJSON reads a line of at most limit bytes.
func readJSON(r io.Reader, limit int64, v any) error {
	bounded := &io.LimitedReader{R: r, N: limit}
	dec := json.NewDecoder(bounded)
	switch err := dec.Decode(v); {
	case err != nil && bounded.N == 0:
		return ErrTooLarge
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

func writeJSON(w io.Writer, limit int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= limit {
		return ErrTooLarge
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// dial connects to the socket; nobody there is ErrNotRunning.
func dial(ctx context.Context, path string) (net.Conn, error) {
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), refused(err):
		return nil, fmt.Errorf("%w: nobody answers on %s", ErrNotRunning, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: %w; run this as the user who runs the program", path, fs.ErrPermission)
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// listen makes the socket. release removes its file.
func listen(ctx context.Context, path string) (_ net.Listener, release func(), err error) {
	conn, err := dial(ctx, path)
	switch {
	case err == nil:
		conn.Close()
		return nil, nil, fmt.Errorf("%w %s", ErrInUse, path)
	case !errors.Is(err, ErrNotRunning):
		return nil, nil, err
	}
	// Nobody answers, so a socket there is left over from a crash. Anything
	// else of that name is not ours to remove.
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, err
	case info.Mode().IsRegular() || info.IsDir():
		return nil, nil, fmt.Errorf("%s is in the way; move it elsewhere", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, nil, err
		}
	}
	short, done, err := shorten(path)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	l, err := new(net.ListenConfig).Listen(ctx, "unix", short)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	// The listener knows the short path only, which is gone by then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	release = func() { _ = os.Remove(path) } // it may be gone; a left-over is taken over
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		release()
		return nil, nil, err
	}
	return l, release, nil
}

func tooLong(path string) error {
	return fmt.Errorf("%s is longer than the %d bytes that a socket's path can have here; choose a shorter directory with -dir", path, maxPath)
}
