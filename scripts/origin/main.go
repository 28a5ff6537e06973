// Command origin is a small web site to try a proxy with: what a resident
// wants to read, on loopback. It is part of scripts/try and of the benchmarks,
// never of an installation.
//
//	GET  /            a page
//	GET  /bytes/N     N bytes, the same for the same N on every run
//	POST /upload      answers the SHA-256 and length of the body
//	GET  /hold?s=N    answers after N seconds without a byte
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "origin: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("origin", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ln.Addr())
	srv := &http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want a number of bytes", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, newPattern(), n)
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			http.Error(w, "body was cut short", http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%x %d\n", sum.Sum(nil), n)
	})
	mux.HandleFunc("GET /hold", func(w http.ResponseWriter, r *http.Request) {
		s, _ := strconv.Atoi(r.FormValue("s"))
		select {
		case <-time.After(time.Duration(min(max(s, 0), 600)) * time.Second):
			fmt.Fprintln(w, "still here")
		case <-r.Context().Done():
		}
	})
	return mux
}

// pattern repeats 1 MiB of fixed pseudo-random bytes, so that producing a
// download costs nothing beside the network.
type pattern struct {
	block []byte
	at    int
}

func newPattern() *pattern {
	src := rand.NewChaCha8([32]byte{'b', 'u', 's', 'e', 'l'})
	p := &pattern{block: make([]byte, 1<<20)}
	src.Read(p.block)
	return p
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.block[p.at:])
	p.at = (p.at + n) % len(p.block)
	return n, nil
}

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The free page</title>
<body><h1>You can read this</h1>
<p>This page came from an origin site through a relay.</p></body></html>
`
