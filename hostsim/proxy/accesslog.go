package proxy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
)

// accessLog writes one line for each stream that its filter lets through.
type accessLog struct {
	filter condition // nil: all
	format *substitution
	out    *logFile
}

func (l *accessLog) write(s *stream) {
	if l.filter == nil || l.filter(s) {
		s.formatted = l.format.append(s.formatted[:0], s)
		l.out.write(s.formatted)
	}
}

// logFile is a buffered file that several access loggers may share. It is
// flushed at an interval and when the server closes.
type logFile struct {
	mu   sync.Mutex
	w    *bufio.Writer
	file io.Closer
	path string // of a file that can be opened anew
	stop chan struct{}
}

func newLogFile(w io.Writer, c io.Closer, interval time.Duration) *logFile {
	f := &logFile{w: bufio.NewWriterSize(w, 64<<10), file: c, stop: make(chan struct{})}
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f.flush()
			case <-f.stop:
				return
			}
		}
	}()
	return f
}

func (f *logFile) write(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Write(line)
}

func (f *logFile) flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Flush()
}

// reopen opens the file anew, which something has renamed meanwhile.
func (f *logFile) reopen() error {
	if f.path == "" {
		return nil
	}
	file, err := openLog(f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Flush()
	f.file.Close()
	f.file = file
	f.w.Reset(file)
	return nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
}

// ReopenLogs opens the files of access logs anew, for whoever rotates them.
func (s *Server) ReopenLogs() {
	for path, f := range s.logs {
		if err := f.reopen(); err != nil {
			s.options.Logger.Error("cannot reopen an access log", "path", path, "error", err)
		}
	}
}

func (f *logFile) close() {
	close(f.stop)
	f.flush()
	if f.file != nil {
		f.file.Close()
	}
}

func (b *builder) accessLogs(parent, field string, list []*accesslogv3.AccessLog) ([]*accessLog, error) {
	var logs []*accessLog
	for i, c := range list {
		path := at(parent, field, i) + ".typed_config"
		msg, err := b.boot.Unpack(c.GetTypedConfig(), path)
		if err != nil {
			return nil, err
		}
		var file string
		var format *corev3.SubstitutionFormatString
		var line *substitution
		switch c := msg.(type) {
		case *filev3.FileAccessLog:
			file, format = c.GetPath(), c.GetLogFormat()
			line, err = b.deprecatedFormat(path, c)
		case *streamv3.StdoutAccessLog:
			file, format = "/dev/stdout", c.GetLogFormat()
		case *streamv3.StderrAccessLog:
			file, format = "/dev/stderr", c.GetLogFormat()
		default:
			err = b.boot.Unsupported(path, fmt.Sprintf("access logger %q", c))
		}
		if err != nil {
			return nil, err
		}
		switch {
		case format != nil:
			line, err = b.substitution(path+".log_format", format)
		case line == nil:
			line = &substitution{missing: "-"}
			line.line, err = b.format(path, defaultAccessLog)
		}
		if err != nil {
			return nil, err
		}
		filter, err := b.logFilter(at(parent, field, i)+".filter", c.GetFilter())
		if err != nil {
			return nil, err
		}
		out, err := b.server.logFile(file)
		if err != nil {
			return nil, b.boot.Errorf(path+".path", "%v", err)
		}
		logs = append(logs, &accessLog{filter, line, out})
	}
	return logs, nil
}

// deprecatedFormat reads the fields of FileAccessLog that log_format has
// taken the place of; nil where none is given.
func (b *builder) deprecatedFormat(path string, c *filev3.FileAccessLog) (*substitution, error) {
	f := &substitution{missing: "-"}
	var err error
	switch spec := c.GetAccessLogFormat().(type) {
	case *filev3.FileAccessLog_Format:
		if spec.Format == "" {
			return nil, nil
		}
		f.line, err = b.format(path+".format", spec.Format)
	case *filev3.FileAccessLog_JsonFormat:
		f.json, err = b.jsonObject(path+".json_format", spec.JsonFormat)
	case *filev3.FileAccessLog_TypedJsonFormat:
		f.json, err = b.jsonObject(path+".typed_json_format", spec.TypedJsonFormat)
	default:
		return nil, nil
	}
	return f, err
}

// defaultAccessLog is Envoy's default format.
const defaultAccessLog = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% " +
	"\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

// logFile opens a log once, however many loggers write to it.
func (s *Server) logFile(path string) (*logFile, error) {
	if f := s.logs[path]; f != nil {
		return f, nil
	}
	var f *logFile
	switch path {
	case "/dev/stdout":
		f = newLogFile(s.options.Stdout, nil, s.options.LogFlushInterval)
	case "/dev/stderr":
		f = newLogFile(s.options.Stderr, nil, s.options.LogFlushInterval)
	default:
		file, err := openLog(path)
		if err != nil {
			return nil, err
		}
		f = newLogFile(file, file, s.options.LogFlushInterval)
		f.path = path
	}
	s.logs[path] = f
	return f, nil
}

// accessLogType is why a line is written.
func (s *stream) accessLogType() string {
	if s.logType == "" {
		return "DownstreamEnd"
	}
	return s.logType
}
