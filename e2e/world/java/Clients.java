import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.hc.client5.http.classic.methods.HttpGet;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.apache.hc.core5.util.VersionInfo;

/**
 * Clients of Java: {@code Clients websocket|page|httpclient5 URL} says as JSON
 * what came of a socket of the JDK, a page of the JDK (which offers h2c), or a
 * page of Apache HttpClient (which offers TLS/1.2).
 */
public class Clients {
    public static void main(String[] args) throws Exception {
        if (args.length != 2) {
            throw new IllegalArgumentException("usage: Clients websocket|page|httpclient5 URL");
        }
        System.out.println(switch (args[0]) {
            case "websocket" -> socket(args[1]);
            case "page" -> page(args[1]);
            case "httpclient5" -> httpclient5(args[1]);
            default -> throw new IllegalArgumentException("unknown client " + args[0]);
        });
        System.exit(0); // HttpClient's threads would go on
    }

    private static String jdk() {
        return Runtime.version().toString().replaceAll("[^0-9.].*", "");
    }

    private static String page(String url) throws Exception {
        var response = HttpClient.newHttpClient()
                .send(HttpRequest.newBuilder(URI.create(url)).build(), HttpResponse.BodyHandlers.ofString());
        return result(jdk(), response.statusCode(), response.body());
    }

    private static String httpclient5(String url) throws Exception {
        try (var client = HttpClients.createDefault()) {
            var version = VersionInfo.loadVersionInfo("org.apache.hc.client5", Clients.class.getClassLoader()).getRelease();
            return client.execute(new HttpGet(url),
                    response -> result(version, response.getCode(), EntityUtils.toString(response.getEntity())));
        }
    }

    private static String result(String version, int status, String text) {
        return "{\"version\": \"%s\", \"status\": %d, \"text\": \"%s\"}".formatted(version, status, text.strip());
    }

    private static String socket(String url) throws Exception {
        var texts = new LinkedBlockingQueue<String>();
        var binaries = new LinkedBlockingQueue<ByteBuffer>();
        var closed = new CompletableFuture<Integer>();
        var listener = new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onText(WebSocket c, CharSequence data, boolean last) {
                texts.add(data.toString());
                c.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onBinary(WebSocket c, ByteBuffer data, boolean last) {
                binaries.add(ByteBuffer.allocate(data.remaining()).put(data).flip());
                c.request(1);
                return null;
            }

            @Override
            public CompletionStage<?> onClose(WebSocket c, int code, String reason) {
                closed.complete(code);
                return null;
            }
        };
        var c = HttpClient.newHttpClient().newWebSocketBuilder().subprotocols("v1.echo")
                .buildAsync(URI.create(url), listener).get(30, TimeUnit.SECONDS);
        c.sendText("text of java", true).get();
        var text = texts.poll(30, TimeUnit.SECONDS);
        var bytes = ByteBuffer.allocate(256);
        for (int i = 0; i < 256; i++) {
            bytes.put((byte) i);
        }
        c.sendBinary(bytes.flip(), true).get();
        bytes.rewind();
        var back = binaries.poll(30, TimeUnit.SECONDS);
        c.sendText("close 4001", true).get();
        return "{\"version\": \"%s\", \"subprotocol\": \"%s\", \"text\": \"%s\", \"binary\": %d, \"close\": %d}".formatted(
                jdk(), c.getSubprotocol(), text, bytes.equals(back) ? 256 : 0, closed.get(30, TimeUnit.SECONDS));
    }
}
