import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/**
 * Says for each line USE, ROOTS, CHAIN (separated by tabs) of its input whether Java's own trust manager accepts a
 * chain: "ok", or why not. USE is server or client; ROOTS and CHAIN are files in PEM, the leaf first.
 */
public class Verify {
    static X509Certificate[] load(String file) throws Exception {
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            return CertificateFactory.getInstance("X.509").generateCertificates(in).toArray(new X509Certificate[0]);
        }
    }

    static void check(String use, String roots, String chain) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        for (X509Certificate c : load(roots)) {
            store.setCertificateEntry(c.getSerialNumber().toString(), c);
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance("PKIX");
        factory.init(store);
        X509TrustManager manager = (X509TrustManager) factory.getTrustManagers()[0];
        if (use.equals("client")) {
            manager.checkClientTrusted(load(chain), "EC");
        } else {
            manager.checkServerTrusted(load(chain), "ECDHE_ECDSA");
        }
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = in.readLine()) != null;) {
            String answer = "ok";
            try {
                String[] f = line.split("\t");
                check(f[0], f[1], f[2]);
            } catch (Throwable e) {
                while (e.getCause() != null) {
                    e = e.getCause();
                }
                answer = e.toString().replace('\n', ' ');
            }
            System.out.println(answer);
        }
    }
}
